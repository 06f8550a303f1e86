"""What the figures of a report share: colours, quiet axes, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from trainables.models.variants import VARIANTS

CHOSEN = "#d62728"  # the red of the heat maps' frame
INK, QUIET, FAINT = "#262626", "#6b6b6b", "#e4e4e4"
SMALL, NORMAL, LARGE = 7.5, 9.0, 12.0  # points
DPI = 160
STEPS = [1, 2, 2.5, 5, 10]  # of ticks

# Okabe and Ito, Color Universal Design, 2008, but for the yellow, which is lost on white; the one
# that is near the red of the choice last.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#d55e00")
_MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True, kw_only=True)
class VariantStyle:
    """How a variant is drawn."""

    colour: str
    marker: str


def variant_styles(variants: Iterable[str]) -> dict[str, VariantStyle]:
    """A look for each variant, in the family's order: the same in all figures of a sweep.

    Colours alone tell seven apart; further ones take another marker.
    """
    found = sorted(set(variants), key=list(VARIANTS).index)
    return {
        variant: VariantStyle(
            colour=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i // len(_COLOURS) % len(_MARKERS)],
        )
        for i, variant in enumerate(found)
    }


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure without axes yet; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=LARGE, x=0.01, ha="left", weight="bold")
    return figure


def style_axes(ax: Axes, grid: str = "y") -> None:
    """No frame but the left and the bottom line, a light grid under the marks, small numbers."""
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(QUIET)
    ax.tick_params(which="both", labelsize=SMALL, colors=QUIET, labelcolor=INK, length=3)
    ax.set_axisbelow(True)
    if grid in ("x", "y"):
        ax.grid(axis="x" if grid == "x" else "y", color=FAINT, linewidth=0.7)


def spread_apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights as near to those wanted as can be (least squares), at least ``gap`` apart.

    The order is kept; of equal ones that of coming.
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    heights = np.empty(len(order))
    if len(order):
        nearest = isotonic_regression(np.asarray(wanted, dtype=float)[order] - steps)
        heights[order] = nearest.x + steps
    return [float(h) for h in heights]


Spot = tuple[float, float, float]  # of a label: price, right and up from its point (points)


def _around(distances: Sequence[float]) -> list[Spot]:
    """Places around a point. Better and cheaper than a front there is nothing: up left is best."""
    angles = (135, 112.5, 157.5, 90, 180, 45, 0, -45, -90, 67.5, 22.5, -22.5, -67.5, -135)
    return [
        (
            distance + preference / 2,
            distance * math.cos(math.radians(angle)),
            distance * math.sin(math.radians(angle)),
        )
        for distance in distances
        for preference, angle in enumerate(angles)
    ]


AROUND = _around((5, 8, 12))
AROUND_RING = _around((9, 13, 18))
HALO = [withStroke(linewidth=2, foreground="white")]


class Labels:
    """Puts labels beside points of one axes where they cover no other label and few marks.

    To be made when all else is drawn and the limits of the axes are set.
    """

    def __init__(
        self, ax: Axes, points: Sequence[tuple[float, float]], marks: Sequence[tuple[float, float]]
    ):
        """
        Args:
            points: never covered; data coordinates, as all here.
            marks: better not covered.
        """
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.draw_without_rendering()  # lays the axes out: where points lie is known after it
        self._ax, self._frame = ax, ax.get_window_extent()
        self._point = figure.dpi / 72  # pixels
        self._renderer = RendererAgg(1, 1, figure.dpi)
        to_pixels = ax.transData.transform
        self._marks = to_pixels(np.reshape(marks, (-1, 2)))
        self._taken: list[Bbox] = []
        for point in points:
            self.keep_clear(point, 3)

    def keep_clear(self, at: tuple[float, float], radius: float) -> None:
        """No label comes nearer than ``radius`` points."""
        x, y = (float(v) for v in self._ax.transData.transform(at))
        side = 2 * radius * self._point
        self._taken.append(Bbox.from_bounds(x - side / 2, y - side / 2, side, side))

    def put(
        self,
        text: str,
        at: tuple[float, float],
        colour: str = INK,
        weight: str = "normal",
        spots: Sequence[Spot] = AROUND,
        most: float = 8,
    ) -> bool:
        """Whether there was a place for the label within the axes.

        Args:
            at: what it names.
            spots: to choose among.
            most: marks that it may cover; with more it would hide what it names.
        """
        x, y = (float(v) for v in self._ax.transData.transform(at))
        width, height = self._size(text, weight)
        places = []
        for price, dx, dy in spots:
            # The box touches the end of the offset with the side that looks at the point.
            left = x + dx * self._point - width * (1 - _side(dx)) / 2
            low = y + dy * self._point - height * (1 - _side(dy)) / 2
            box = Bbox.from_bounds(left, low, width, height)
            covered = self._covered(box)
            if self._free(box) and covered <= most:
                places.append((price + 3 * covered, left, low, box))
        if not places:
            return False
        box = min(places, key=lambda place: place[:3])[3]
        self._taken.append(box)
        middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        label = self._ax.annotate(
            text, xy=at,
            xytext=((middle[0] - x) / self._point, (middle[1] - y) / self._point),
            textcoords="offset points", ha="center", va="center",
            fontsize=SMALL, color=colour, weight=weight, zorder=8, path_effects=HALO,
        )  # fmt: skip
        label.set_in_layout(False)
        return True

    def _size(self, text: str, weight: str) -> tuple[float, float]:
        font = FontProperties(size=SMALL, weight=weight)
        width, height, _ = self._renderer.get_text_width_height_descent(text, font, False)
        return width + 3 * self._point, height + 1.5 * self._point

    def _free(self, box: Bbox) -> bool:
        frame = self._frame
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
        inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
        return inside and not any(box.overlaps(other) for other in self._taken)

    def _covered(self, box: Bbox) -> int:
        xs, ys = self._marks.T
        return int(((box.x0 < xs) & (xs < box.x1) & (box.y0 < ys) & (ys < box.y1)).sum())


def _side(offset: float) -> int:
    """-1 if the label lies before the point, 1 behind it, 0 over it."""
    return 0 if abs(offset) < 1e-6 else int(math.copysign(1, offset))
