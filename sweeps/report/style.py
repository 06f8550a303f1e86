"""Style that all figures of a report share: colours, axes, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from trainables.models.variants import order

# The choice has this red in all figures.
CHOSEN = "#d62728"
INK, QUIET, FAINT = "#262626", "#6b6b6b", "#e4e4e4"
# Font sizes, in points.
SMALL, NORMAL, LARGE = 7.5, 9.0, 12.0
DPI = 160
# Of more marks than this a figure is no drawing, but a picture of them: a page draws each anew.
MAX_MARKS = 2_000
# Ticks may be these multiples of a power of ten apart.
STEPS = [1, 2, 2.5, 5, 10]

# The colours are Okabe and Ito's (Color Universal Design, 2008) without the yellow, which cannot be
# seen on white. The last one is close to the red of the choice.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#d55e00")
_MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True, kw_only=True)
class VariantStyle:
    """Colour and marker that a variant is drawn with."""

    colour: str
    marker: str


def variant_styles(variants: Iterable[str]) -> dict[str, VariantStyle]:
    """Give each variant a style, the same in all figures of a sweep.

    There are seven colours; from the eighth variant on, colours repeat with another marker.
    """
    ordered = sorted(set(variants), key=order)
    return {
        variant: VariantStyle(
            colour=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i // len(_COLOURS) % len(_MARKERS)],
        )
        for i, variant in enumerate(ordered)
    }


def new_figure(width: float, height: float, title: str) -> Figure:
    """Make a figure without axes; width and height in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=LARGE, x=0.01, ha="left", weight="bold")
    return figure


def sentence_case(words: str) -> str:
    """Begin words with a capital, and leave the rest as it is."""
    return words[:1].upper() + words[1:]


def style_axes(ax: Axes, grid: str = "y") -> None:
    """Keep only the left and bottom lines of the frame; draw a light grid, and small numbers."""
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(QUIET)
    ax.tick_params(which="both", labelsize=SMALL, colors=QUIET, labelcolor=INK, length=3)
    ax.set_axisbelow(True)
    if grid in ("x", "y"):
        ax.grid(axis="x" if grid == "x" else "y", color=FAINT, linewidth=0.7)


def spread_apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Move heights as little as possible (least squares) until they are ``gap`` apart or more.

    Their order stays, also that of equal ones.
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    heights = np.empty(len(order))
    if len(order):
        nearest = isotonic_regression(np.asarray(wanted, dtype=float)[order] - steps)
        heights[order] = nearest.x + steps
    return [float(h) for h in heights]


# A spot for a label: its penalty, and its offset to the right and up from the point (in points).
Spot = tuple[float, float, float]


def _around(distances: Sequence[float]) -> list[Spot]:
    """List spots around a point. Up left is preferred: there is nothing beyond a Pareto front."""
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

    Make it when all else is drawn and the limits of the axes are set.
    """

    def __init__(
        self, ax: Axes, points: Sequence[tuple[float, float]], marks: Sequence[tuple[float, float]]
    ):
        """Lay the figure out, and note what labels must not cover.

        Args:
            points: places that are never covered, in data coordinates as all positions here.
            marks: places that are better not covered.
        """
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.draw_without_rendering()  # This lays the axes out, which decides where points lie.
        self._ax, self._frame = ax, ax.get_window_extent()
        self._pixels_per_point = figure.dpi / 72
        self._renderer: Any = RendererAgg(1, 1, figure.dpi)  # type: ignore[no-untyped-call]
        to_pixels = ax.transData.transform
        self._marks = to_pixels(np.reshape(marks, (-1, 2)))
        self._taken: list[Bbox] = []
        for point in points:
            self.keep_clear(point, 3)

    def keep_clear(self, at: tuple[float, float], radius: float) -> None:
        """Let no label come nearer to ``at`` than ``radius`` points."""
        x, y = (float(v) for v in self._ax.transData.transform(at))
        side = 2 * radius * self._pixels_per_point
        self._taken.append(Bbox.from_bounds(x - side / 2, y - side / 2, side, side))

    def put(
        self,
        text: str,
        at: tuple[float, float],
        colour: str = INK,
        weight: str = "normal",
        spots: Sequence[Spot] = AROUND,
        max_covered: float = 8,
    ) -> bool:
        """Put a label beside a point, if there is room within the axes.

        Args:
            at: the point that the label names.
            spots: where the label may be.
            max_covered: marks that the label may cover; with more it would hide what it names.

        Returns:
            Whether there was room.
        """
        x, y = (float(v) for v in self._ax.transData.transform(at))
        width, height = self._text_pixels(text, weight)
        candidates = []
        for penalty, dx, dy in spots:
            # The side of the box that faces the point is at the end of the offset.
            left = x + dx * self._pixels_per_point - width * (1 - _side(dx)) / 2
            low = y + dy * self._pixels_per_point - height * (1 - _side(dy)) / 2
            box = Bbox.from_bounds(left, low, width, height)
            covered = self._covered(box)
            if self._free(box) and covered <= max_covered:
                candidates.append((penalty + 3 * covered, left, low, box))
        if not candidates:
            return False
        box = min(candidates, key=lambda candidate: candidate[:3])[3]
        self._taken.append(box)
        right = ((box.x0 + box.x1) / 2 - x) / self._pixels_per_point
        up = ((box.y0 + box.y1) / 2 - y) / self._pixels_per_point
        label = self._ax.annotate(
            text, xy=at,
            xytext=(right, up),
            textcoords="offset points", ha="center", va="center",
            fontsize=SMALL, color=colour, weight=weight, zorder=8, path_effects=HALO,
        )  # fmt: skip
        label.set_in_layout(False)
        return True

    def _text_pixels(self, text: str, weight: str) -> tuple[float, float]:
        font = FontProperties(size=SMALL, weight=weight)
        width, height, _ = self._renderer.get_text_width_height_descent(text, font, False)
        return width + 3 * self._pixels_per_point, height + 1.5 * self._pixels_per_point

    def _free(self, box: Bbox) -> bool:
        frame = self._frame
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
        inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
        return inside and not any(box.overlaps(other) for other in self._taken)

    def _covered(self, box: Bbox) -> int:
        xs, ys = self._marks.T
        return int(((box.x0 < xs) & (xs < box.x1) & (box.y0 < ys) & (ys < box.y1)).sum())


def _side(offset: float) -> int:
    """Return on which side of the point a label lies: -1 before it, 1 behind it, 0 on it."""
    return 0 if abs(offset) < 1e-6 else int(math.copysign(1, offset))
