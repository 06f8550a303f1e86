"""Plot val against each cost of serving: rows, Pareto fronts, limits and the choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sweeps.planning.cell import crop_in_words
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.words import option
from sweeps.planning.serving.costs import COST_OF_FIELD
from sweeps.planning.serving.limits import ServingLimit, limits_set
from sweeps.report.style import (
    AROUND_RING,
    CHOSEN,
    FAINT,
    INK,
    MAX_MARKS,
    NORMAL,
    QUIET,
    SMALL,
    STEPS,
    Labels,
    VariantStyle,
    new_figure,
    sentence_case,
    style_axes,
    variant_styles,
)
from sweeps.selection.choice import eligible, pareto_front
from sweeps.selection.leaderboard import Row, crossfit_note
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.evaluation.confidence import wilson

_DASHES = (0, (4, 3))
# Spots for a label below or above a level line, from the right end, where there are fewest rows.
_ALONG_LINE = [(i + side, -3.0 - 12 * i, dy) for i in range(20) for side, dy in ((0, -2), (0.5, 2))]


def plot_pareto_fronts(
    rows: Sequence[Row],
    costs: Sequence[str],
    chosen: Row,
    limits: ServingOptions,
    metric: Metric = "top1",
) -> Figure:
    """Draw a panel for each cost: every row that may be chosen by its value on val, their front.

    A cost that has not been measured has no panel, nor one that is the same for all rows; the
    figure names the latter below the panels.

    Args:
        costs: names of fields of a row.
        chosen: one of the rows.
    """
    rows = eligible(rows)
    measured = [c for c in costs if any(_cost(r, c) is not None for r in rows)]
    shown = [c for c in measured if len({_cost(r, c) for r in rows}) > 1] or measured[:1]
    assert shown, "no row has any of the costs"
    same = [
        f"{_name(c)}: {_cost(rows[0], c):.4g} for every row" for c in measured if c not in shown
    ]
    wide, high = min(len(shown), 2), math.ceil(len(shown) / 2)
    words = IN_WORDS[metric]
    title = (
        f"{sentence_case(words)} on val against what it costs to serve ({_rows(len(rows))}, "
        f"n = {chosen.n}{crossfit_note(rows)})"
    )
    figure = new_figure(8.5, 3.1 * high + 0.9, title)
    axes = list(figure.subplots(high, wide, squeeze=False, sharey=True).flat)
    spare = axes[len(shown) :]
    styles = variant_styles(r.variant for r in rows)
    heights = _heights(rows, shown, chosen, limits, metric)
    panels = []
    for cost, ax in zip(shown, axes, strict=False):
        own = [r for r in rows if _cost(r, cost) is not None]
        bounds = limits_set(limits)
        panels.append(
            _Panel(ax=ax, cost=cost, rows=own, chosen=chosen, bounds=bounds, metric=metric)
        )
        panels[-1].draw(styles, heights)
    for ax in axes[::wide]:
        ax.set_ylabel(f"{words} on val (%, n = {chosen.n})", fontsize=NORMAL, color=INK)
    for ax in spare:
        ax.set_axis_off()
    lower = sum(100 * r.value(metric) < heights[0] for r in rows)
    notes = [*same, f"{_rows(lower)} lower than shown"] if lower else same
    named = _namer(rows)
    ring = f"chosen: {named(chosen)}"
    if metric == "top1":
        ring += ", with its 95 % interval (Wilson)"
    _key(figure, spare, styles, ring, "; ".join(notes))
    for panel in panels:
        panel.name(named)
    return figure


def _cost(row: Row, cost: str) -> float | None:
    value: float | None = getattr(row, cost, None)
    return value


def _name(cost: str) -> str:
    serving_cost = COST_OF_FIELD.get(cost)
    return serving_cost.axis if serving_cost else cost.replace("_", " ")


def _namer(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Make what names a row in short, with variant and crop where the rows have several."""
    variants, crops = ({getattr(r, name) for r in rows} for name in ("variant", "crop_pct"))

    def name(row: Row) -> str:
        words = f"{row.train_in_words}→{row.test_res} {row.arm}"
        if len(crops) > 1:
            words += f", crop {crop_in_words(row.crop_pct)}"
        return f"{row.variant} {words}" if len(variants) > 1 else words

    return name


def _rows(count: int) -> str:
    return f"{count} rows" if count > 1 else "1 row"


def _interval(row: Row, metric: Metric) -> tuple[float, float]:
    """Give the 95 % interval (Wilson) of top-1, %; a mean over classes has none, but its value."""
    if metric != "top1":
        return 100 * row.value(metric), 100 * row.value(metric)
    low, high = wilson(row.ranked_hits1, row.n)
    return 100 * low, 100 * high


def _heights(
    rows: Sequence[Row],
    costs: Sequence[str],
    chosen: Row,
    limits: ServingOptions,
    metric: Metric,
) -> tuple[float, float]:
    """Choose the range of values to show (%): the fronts and some way below, not every row."""
    fronts = [
        r
        for c in costs
        for r in pareto_front([r for r in rows if _cost(r, c) is not None], c, metric)
    ]
    needed = [*_interval(chosen, metric), *(100 * r.value(metric) for r in fronts)]
    if limits.min_top1 is not None and metric == "top1":
        needed.append(100 * limits.min_top1)
    span = max(max(needed) - min(needed), 1.0)
    lowest = min(100 * r.value(metric) for r in rows)
    bottom = max(min(min(needed), lowest), min(needed) - 0.5 * span)
    return bottom - 0.06 * span, max(needed) + 0.12 * span


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """The panel of one cost, which has been measured for all of its rows."""

    ax: Axes
    cost: str
    rows: Sequence[Row]
    chosen: Row
    bounds: Sequence[ServingLimit]
    metric: Metric

    def x(self, row: Row) -> float:
        """Return the row's cost."""
        value = _cost(row, self.cost)
        assert value is not None
        return value

    def y(self, row: Row) -> float:
        """Return the row's value on val, %."""
        return 100 * row.value(self.metric)

    @property
    def front(self) -> list[Row]:
        """The rows that no other row beats, the cheapest first."""
        return pareto_front(self.rows, self.cost, self.metric)

    def draw(self, styles: dict[str, VariantStyle], heights: tuple[float, float]) -> None:
        """Draw all but the names of the points."""
        ax = self.ax
        style_axes(ax)
        ax.set_xlabel(_name(self.cost), fontsize=NORMAL, color=INK)
        ax.set_ylim(heights)
        ticks = MaxNLocator(6, steps=STEPS).tick_values(*heights)
        ax.set_yticks([t for t in ticks if heights[0] <= t <= min(100, heights[1])])
        self._scale([*map(self.x, self.rows), *(b.limit for b in self._cost_limits)])
        many = len(self.rows) > MAX_MARKS
        how: dict[str, Any] = {"markersize": 4, "alpha": 0.4, "markeredgewidth": 0, "zorder": 2}
        self._points(self.rows, styles, **how, rasterized=many)
        best = self.front
        xs, ys = [self.x(r) for r in best], [self.y(r) for r in best]
        right = ax.get_xlim()[1]
        ax.step([*xs, right], [*ys, ys[-1]], where="post", color=QUIET, linewidth=1.1, zorder=3)
        edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        self._points(best, styles, markersize=6, zorder=5, **edge)
        self._ring()
        for bound in self._cost_limits:
            self._cost_limit(bound)
        for bound in self._top1_limits:
            low = heights[0], 100 * bound.limit
            ax.axhspan(*low, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
            ax.axhline(100 * bound.limit, color=INK, linestyle=_DASHES, linewidth=1, zorder=1)

    def _points(self, rows: Sequence[Row], styles: dict[str, VariantStyle], **how: Any) -> None:
        for variant, style in styles.items():
            own = [r for r in rows if r.variant == variant]
            xs, ys = [self.x(r) for r in own], [self.y(r) for r in own]
            self.ax.plot(xs, ys, style.marker, color=style.colour, **how)

    @property
    def _cost_limits(self) -> list[ServingLimit]:
        return [b for b in self.bounds if b.cost == self.cost]

    @property
    def _top1_limits(self) -> list[ServingLimit]:
        return [b for b in self.bounds if b.name == "min_top1" and self.metric == "top1"]

    def _scale(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        if low > 0 and high / low > 5:
            self.ax.set_xscale("log")
            margin = (high / low) ** 0.09
            self.ax.set_xlim(low / margin, high * margin)
            subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
            self.ax.xaxis.set_major_locator(LogLocator(subs=subs))
            self.ax.xaxis.set_minor_locator(NullLocator())
        else:
            margin = 0.09 * (high - low) or 0.1 * abs(high) or 1.0
            self.ax.set_xlim(low - margin, high + margin)
            self.ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        self.ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.5g}"))

    def _ring(self) -> None:
        """Ring the chosen row, and draw its 95 % interval (Wilson)."""
        if _cost(self.chosen, self.cost) is None:
            return
        x = self.x(self.chosen)
        low, high = _interval(self.chosen, self.metric)
        self.ax.vlines(x, low, high, color=CHOSEN, linewidth=1.3, zorder=4)
        self.ax.plot(
            x, self.y(self.chosen), "o", markersize=11, markerfacecolor="none",
            markeredgecolor=CHOSEN, markeredgewidth=2, zorder=6,
        )  # fmt: skip

    def _cost_limit(self, bound: ServingLimit) -> None:
        """Draw a limit on the cost, with its name above the axes."""
        right = self.ax.get_xlim()[1]
        self.ax.axvspan(bound.limit, right, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
        self.ax.axvline(bound.limit, color=INK, linestyle=_DASHES, linewidth=1, zorder=1)
        share = self.ax.transAxes.inverted().transform(
            self.ax.transData.transform((bound.limit, 0.0))
        )[0]
        self.ax.annotate(
            f"{option(bound.name)} {bound.limit:g}",
            xy=(bound.limit, 1), xycoords=self.ax.get_xaxis_transform(), xytext=(0, 3),
            textcoords="offset points", va="bottom", fontsize=SMALL, color=INK,
            ha="left" if share < 0.3 else "right" if share > 0.7 else "center",
        )  # fmt: skip

    def name(self, words_of: Callable[[Row], str]) -> None:
        """Name the chosen row and those of the front, as far as there is room.

        The choice comes first, then the ends of the front, then its greatest steps.

        Args:
            words_of: names a row in short.
        """
        steps = self.front
        gains = {b: round(self.y(b) - self.y(a), 9) for a, b in pairwise(steps)}
        named = sorted(steps, key=lambda r: (r not in (steps[0], steps[-1]), -gains.get(r, 0)))
        if _cost(self.chosen, self.cost) is not None:
            named = [self.chosen, *(r for r in named if r != self.chosen)]
        points = [(self.x(r), self.y(r)) for r in named]
        labels = Labels(self.ax, points, self._marks())
        for bound in self._top1_limits:
            at = self.ax.get_xlim()[1], 100 * bound.limit
            labels.put(f"{option(bound.name)} {bound.limit:g}", at, spots=_ALONG_LINE)
        for row in named:
            words = words_of(row)
            at = self.x(row), self.y(row)
            if row == self.chosen:
                labels.put(words, at, CHOSEN, "bold", AROUND_RING, math.inf)
                labels.keep_clear(at, 8)
            else:
                labels.put(words, at)

    def _marks(self) -> list[tuple[float, float]]:
        """List points that names should not cover: rows, front, limits, the choice's interval."""
        points = [(self.x(r), self.y(r)) for r in self.rows]
        corners = [(self.x(r), self.y(r)) for r in self.front]
        corners.append((self.ax.get_xlim()[1], corners[-1][1]))
        if _cost(self.chosen, self.cost) is not None:
            low, high = _interval(self.chosen, self.metric)
            points += [(self.x(self.chosen), low + (high - low) * i / 20) for i in range(21)]
        low_end, high_end = self.ax.get_ylim()
        points += [
            (bound.limit, low_end + (high_end - low_end) * i / 50)
            for bound in self._cost_limits
            for i in range(51)
        ]
        log = self.ax.get_xscale() == "log"
        for (x0, y0), (x1, y1) in pairwise(corners):
            for share in (i / 20 for i in range(21)):
                along = x0 * (x1 / x0) ** share if log else x0 + (x1 - x0) * share
                points += [(along, y0), (x1, y0 + (y1 - y0) * share)]
        return points


def _key(
    figure: Figure,
    spare: Sequence[Axes],
    styles: dict[str, VariantStyle],
    ring_label: str,
    note: str,
) -> None:
    """Explain the marks: in the spare panel if there is one, else below all panels."""
    handles = [
        Line2D(
            [], [], marker=style.marker, color=style.colour, linestyle="", markersize=5, label=name
        )
        for name, style in styles.items()
    ]
    handles.append(Line2D([], [], color=QUIET, linewidth=1.1, label="Pareto front"))
    ring = Line2D(
        [], [], marker="o", markersize=8, markerfacecolor="none", markeredgecolor=CHOSEN,
        markeredgewidth=1.6, color=CHOSEN, linewidth=1.3,
        label=ring_label,
    )  # fmt: skip
    parent = spare[0] if spare else figure
    parent.legend(
        handles=[*handles, ring],
        loc="center" if spare else "outside lower left",
        ncols=1 + len(handles) // 9 if spare else min(len(handles) + 1, 7),
        title=note or None,
        frameon=False, fontsize=SMALL, title_fontsize=SMALL, alignment="left", labelcolor=INK,
        handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip
