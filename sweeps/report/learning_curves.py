"""Plot how the trunks learned: val and train loss by epoch, a panel for each point."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeps.events.event_types import TrunkEnded
from sweeps.planning.grid import Point, point_of
from sweeps.report.style import (
    CHOSEN,
    FAINT,
    HALO,
    INK,
    NORMAL,
    QUIET,
    SMALL,
    STEPS,
    new_figure,
    spread_apart,
    style_axes,
    variant_styles,
)
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.models import variants
from trainables.training.trunk import TrunkStatus

_COLUMNS = 4
# A page holds no more panels than this.
_MAX_POINTS = 16
# With more points than this, the losses are left out.
_MAX_POINTS_WITH_LOSS = 8
# A panel holds no more lines than this.
_MAX_LINES = 60
# How a trunk ended early: the marker on its line, and the sign in text.
_MARKS = {
    TrunkStatus.CUT: ("x", "×"),
    TrunkStatus.DIVERGED: ("v", "▾"),
    TrunkStatus.FAILED: ("s", "▪"),
}
_OTHERS = "#a3a3a3"


def plot_learning_curves(
    trunks: Sequence[TrunkEnded],
    chosen_trunk: str,
    rungs: Sequence[int],
    metric: Metric = "top1",
) -> Figure:
    """Draw a panel for each variant and train resolution, with a line for each trunk.

    Val is scored at rungs only, which are few; so the loss of every epoch is drawn below, where
    there is one and the points are not too many. If there are more points than a page holds, the
    best are shown, and of a point with more trunks than a panel holds some, from the best to the
    worst; the figure says so.

    Args:
        trunks: at least one.
        chosen_trunk: key of the chosen row's trunk.
        rungs: epochs at which val is scored.
        metric: by which val is shown, and decides.
    """
    of_point = _by_point(trunks)
    shown = _best_points(of_point, chosen_trunk, metric)
    lines = {p: _some(of_point[p], chosen_trunk, metric) for p in shown}
    drawn = [t for of_panel in lines.values() for t in of_panel]
    with_loss = len(shown) <= _MAX_POINTS_WITH_LOSS and any(_losses(t) for t in drawn)
    columns = min(_COLUMNS, len(shown))
    bands = math.ceil(len(shown) / columns)
    scores = [s for t in trunks for r in t.reports for s in r.val.values()]
    count = f"{len(trunks)} trunks" if len(trunks) > 1 else "the trunk"
    title = f"How {count} learned" + (f" (val, n = {scores[0].n})" if scores else "")
    width = max(7.0, 2.15 * columns + 0.4)
    figure = new_figure(width, bands * (3.6 if with_loss else 1.9) + 0.7, title)
    styles = variant_styles(t.trunk.variant for t in trunks)
    scale = _scale(drawn, rungs, (width - 0.9) / columns, metric)
    panels = [
        _Panel(
            val=val,
            loss=loss,
            trunks=of_point[point],
            drawn=lines[point],
            chosen=chosen_trunk,
            colour=styles[point.variant].colour,
            scale=scale,
            metric=metric,
        )
        for point, (val, loss) in zip(shown, _axes(figure, bands, columns, with_loss), strict=False)
    ]
    for i, (point, panel) in enumerate(zip(shown, panels, strict=True)):
        panel.draw(point, first=i % columns == 0, lowest=i + columns >= len(shown))
    if scale.rungs[-1] > 0:
        _name_rung(own=panels[0], rung=scale.rungs[0])
    notes = []
    if len(drawn) > len(shown):
        notes.append("In colour the best trunk of each point, in grey the others.")
    if len(shown) < len(of_point):
        notes.append(f"{len(shown)} of {len(of_point)} points shown: the best, and the chosen one.")
    if len(drawn) < sum(len(of_point[p]) for p in shown):
        notes.append(f"{_MAX_LINES} trunks of a point drawn, evenly from the best to the worst.")
    if notes:
        figure.supxlabel(" ".join(notes), fontsize=SMALL, color=QUIET, x=0.01, ha="left")
    figure.draw_without_rendering()  # This lays the axes out, which decides their height.
    for panel in panels:
        panel.name()
    return figure


def _axes(
    figure: Figure, bands: int, columns: int, with_loss: bool
) -> list[tuple[Axes, Axes | None]]:
    """Make the axes for val and, ``with_loss``, for the loss below; hidden until they are used."""
    lines = 2 if with_loss else 1
    grid = figure.subplots(
        bands * lines, columns, squeeze=False, sharex=True, height_ratios=[1.3, 1][:lines] * bands
    )
    for ax in grid.flat:
        ax.set_axis_off()
    return [
        (line[column], below[column] if with_loss else None)
        for line, below in zip(grid[::lines], grid[lines - 1 :: lines], strict=True)
        for column in range(columns)
    ]


# --- choosing what is shown -------------------------------------------------------------------


def _by_point(trunks: Iterable[TrunkEnded]) -> dict[Point, list[TrunkEnded]]:
    of_point: dict[Point, list[TrunkEnded]] = {}
    for trunk in trunks:
        of_point.setdefault(point_of(trunk.trunk), []).append(trunk)
    ordered = sorted(of_point, key=lambda p: (variants.order(p.variant), p.train_res))
    return {point: of_point[point] for point in ordered}


def _best_points(
    of_point: dict[Point, list[TrunkEnded]], chosen: str, metric: Metric
) -> list[Point]:
    """Choose as many points as a page holds, the chosen trunk's among them; in the given order."""

    def point_rank(point: Point) -> tuple[bool, tuple[int, float]]:
        own = of_point[point]
        return any(t.trunk.key == chosen for t in own), max(_trunk_rank(t, metric) for t in own)

    best = sorted(of_point, key=point_rank, reverse=True)[:_MAX_POINTS]
    return [point for point in of_point if point in best]


def _some(trunks: Sequence[TrunkEnded], chosen: str, metric: Metric) -> list[TrunkEnded]:
    """Choose as many trunks of a point as a panel holds, evenly by rank; in the given order."""
    if len(trunks) <= _MAX_LINES:
        return list(trunks)
    ranked = sorted(trunks, key=lambda t: (t.trunk.key == chosen, _trunk_rank(t, metric)))[::-1]
    best = max(trunks, key=lambda t: _trunk_rank(t, metric))
    others = [t for t in ranked if t.trunk.key != chosen and t is not best]
    room = _MAX_LINES - (len(ranked) - len(others))
    kept = {others[i * (len(others) - 1) // (room - 1)].trunk.key for i in range(room)}
    kept |= {chosen, best.trunk.key}
    return [t for t in trunks if t.trunk.key in kept]


def _trunk_rank(trunk: TrunkEnded, metric: Metric) -> tuple[int, float]:
    """Rank a trunk as phase 2 does: by its epochs, then by val.

    A trunk that diverged, failed or was never scored on val ranks last: (-1, 0).
    """
    tops = _tops(trunk, metric)
    if not tops or trunk.status not in (TrunkStatus.FINISHED, TrunkStatus.CUT):
        return -1, 0.0
    return max(tops)


def _tops(trunk: TrunkEnded, metric: Metric) -> list[tuple[int, float]]:
    """List epoch and value on val (%) at the best test resolution."""
    best = ((r.epoch, r.best_by(metric)) for r in trunk.reports)
    return [(epoch, 100 * score.value(metric)) for epoch, score in best if score is not None]


def _losses(trunk: TrunkEnded) -> list[tuple[int, float]]:
    return [(r.epoch, r.loss) for r in trunk.reports if r.loss is not None]


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Limits of the axes, which all panels share."""

    rungs: list[int]
    epochs: tuple[float, float]
    """Range of the lines; names stand to the right of it."""
    right: float
    """Right end of the axes, in epochs."""
    tops: tuple[float, float]
    """Range of the metric, %."""
    losses: tuple[float, float]
    """Range of the loss, nats."""

    @property
    def ticks(self) -> list[int]:
        """The rungs that have room for their numbers, the last first."""
        first, last = self.epochs
        kept: list[int] = []
        for rung in reversed(self.rungs):
            if not kept or kept[-1] - rung >= 0.12 * (last - first):
                kept.append(rung)
        return kept


def _scale(
    trunks: Sequence[TrunkEnded], rungs: Sequence[int], width: float, metric: Metric
) -> _Scale:
    """Choose the limits of the axes so that all trunks fit.

    Args:
        width: width of a panel, inches.
    """
    epochs = [r.epoch for t in trunks for r in t.reports] + list(rungs)
    first, last = min(epochs), max(epochs)
    span = (last - first) or 1
    names_share = 0.8 / width  # The share of a panel that the names need.
    tops = [top for t in trunks for _, top in _tops(t, metric)] or [0.0, 100.0]
    pad = max(max(tops) - min(tops), 1.0)
    # The loss of a trunk that diverges would flatten all other lines.
    stable = [t for t in trunks if t.status != TrunkStatus.DIVERGED and _losses(t)] or trunks
    losses = [loss for t in stable for _, loss in _losses(t)] or [0.0, 1.0]
    loss_span = max(losses) - min(losses) or 1.0
    return _Scale(
        rungs=sorted(set(rungs)),
        epochs=(first - 0.05 * span, last),
        right=last + span * names_share / (1 - names_share),
        tops=(min(tops) - 0.08 * pad, max(tops) + 0.1 * pad),
        losses=(min(losses) - 0.08 * loss_span, max(losses) + 0.08 * loss_span),
    )


# --- drawing ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """The panel of one point: val above, and the loss below if it is shown."""

    val: Axes
    loss: Axes | None
    trunks: Sequence[TrunkEnded]
    drawn: Sequence[TrunkEnded]
    """Those of them that have a line."""
    chosen: str
    colour: str
    scale: _Scale
    metric: Metric

    @cached_property
    def best(self) -> TrunkEnded | None:
        """The trunk that ranks first; None where all diverged or failed."""
        ranks = {t.trunk.key: _trunk_rank(t, self.metric) for t in self.trunks}
        best = max(self.trunks, key=lambda t: ranks[t.trunk.key])
        return best if ranks[best.trunk.key][0] >= 0 else None

    def draw(self, point: Point, *, first: bool, lowest: bool) -> None:
        """Draw all but the names of lines; ``first``: in its row, ``lowest``: in its column."""
        count = f"{len(self.trunks)} trunks" if len(self.trunks) > 1 else "1 trunk"
        title = f"{point.variant}, {point.train_res} px: {count}"
        self.val.set_title(title, fontsize=NORMAL, loc="left", pad=14, color=INK)
        ends = self.val.annotate(
            self._early_ends(), xy=(0, 1), xycoords="axes fraction", xytext=(0, 4),
            textcoords="offset points", fontsize=SMALL, color=QUIET,
        )  # fmt: skip
        ends.set_in_layout(False)
        name = f"{IN_WORDS[self.metric]} on val (%),\nbest test res"
        self._axes(self.val, self.scale.tops, name if first else "")
        for trunk in self.drawn:
            self._line(self.val, trunk, _tops(trunk, self.metric), dots=True)
        if self.loss is not None:
            self._axes(self.loss, self.scale.losses, "train loss (nats)" if first else "")
            for trunk in self.drawn:
                self._line(self.loss, trunk, _losses(trunk), dots=False)
        if lowest:
            bottom = self.loss or self.val
            bottom.set_xlabel("epoch", fontsize=NORMAL, color=INK)
            bottom.tick_params(labelbottom=True)

    def _early_ends(self) -> str:
        """Count the trunks that ended early, with the signs that mark their lines."""
        ends = Counter(t.status for t in self.trunks)
        return ", ".join(f"{ends[w]} {w} {sign}" for w, (_, sign) in _MARKS.items() if ends[w])

    def _axes(self, ax: Axes, limits: tuple[float, float], name: str) -> None:
        ax.set_axis_on()
        style_axes(ax)
        first, last = self.scale.epochs
        ax.set_xlim(first, self.scale.right)
        ax.set_xticks(self.scale.ticks)
        ax.spines["bottom"].set_bounds(first, last)
        ax.set_ylim(limits)
        ticks = MaxNLocator(5, steps=STEPS).tick_values(*limits)
        top = min(100.0, limits[1]) if ax is self.val else limits[1]
        ax.set_yticks([t for t in ticks if limits[0] <= t <= top])
        ax.tick_params(labelleft=bool(name))
        ax.set_ylabel(name, fontsize=NORMAL, color=INK)
        for rung in self.scale.rungs:
            ax.axvline(rung, color=FAINT, linewidth=1, zorder=0)

    def _line(
        self, ax: Axes, trunk: TrunkEnded, course: Sequence[tuple[int, float]], *, dots: bool
    ) -> None:
        if not course:
            return
        xs, ys = zip(*course, strict=True)
        chosen = trunk.trunk.key == self.chosen
        own = chosen or trunk is self.best
        colour = self.colour if own else _OTHERS
        ax.plot(
            xs, ys, color=colour, linewidth=2.6 if chosen else 1.5 if own else 0.9,
            marker="o" if dots else "", markersize=4 if own else 2.5, zorder=4 if own else 3,
        )  # fmt: skip
        if trunk.status in _MARKS:
            marker = _MARKS[trunk.status][0]
            ax.plot(xs[-1], ys[-1], marker, color=colour if own else QUIET, markersize=5.5,
                    markeredgewidth=1.4 if marker == "x" else 0, zorder=5)  # fmt: skip
        if chosen and dots:
            ax.plot(
                xs[-1], ys[-1], "o", markersize=9, markerfacecolor="none", markeredgecolor=CHOSEN,
                markeredgewidth=1.8, zorder=6,
            )  # fmt: skip

    def name(self) -> None:
        """Write the learning rates of the best and the chosen trunk beside the ends of their lines.

        The figure must be laid out before.
        """
        named = [t for t in self.trunks if t is self.best or t.trunk.key == self.chosen]
        named = [t for t in named if _tops(t, self.metric)]
        figure = self.val.get_figure(root=True)
        assert figure is not None
        low, high = self.scale.tops
        points = self.val.get_window_extent().height / figure.dpi * 72
        gap = 2.6 * SMALL / points * (high - low)  # A name has two lines of text.
        ends = [_tops(t, self.metric)[-1] for t in named]
        for trunk, (epoch, _), height in zip(
            named, ends, spread_apart([y for _, y in ends], gap), strict=True
        ):
            chosen = trunk.trunk.key == self.chosen
            words = ["chosen"] if chosen else []
            if trunk.trunk.recipe.epochs:
                words.append(f"lr {trunk.trunk.hyper.lr:.2g}")
            text = self.val.annotate(
                "\n".join(words),
                xy=(epoch, height), xytext=(8, 0), textcoords="offset points", va="center",
                fontsize=SMALL, color=CHOSEN if chosen else INK, path_effects=HALO, zorder=8,
                weight="bold" if chosen else "normal",
            )  # fmt: skip
            text.set_in_layout(False)


def _name_rung(own: _Panel, rung: int) -> None:
    """Name a rung where lines seldom are: low on the losses, or high on val."""
    ax = own.loss or own.val
    low = own.loss is not None
    ax.annotate(
        "rung", xy=(rung, 0 if low else 1), xycoords=ax.get_xaxis_transform(),
        xytext=(1.5, 3 if low else -3), textcoords="offset points", rotation=90,
        va="bottom" if low else "top", fontsize=SMALL, color=QUIET, path_effects=HALO,
    )  # fmt: skip
