"""Plot the arms over all cells: what each gains on the untuned trunk, and the time it takes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sweeps.planning.units import duration
from sweeps.report.style import (
    HALO,
    INK,
    MAX_MARKS,
    NORMAL,
    QUIET,
    SMALL,
    STEPS,
    new_figure,
    sentence_case,
    style_axes,
)
from sweeps.selection.leaderboard import Row, crossfit_note
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.fixres.arms import ARMS, UNTUNED, rank

# The heat maps' colours without the yellow end, which cannot be seen on white.
_COLOURS = LinearSegmentedColormap.from_list(
    "dark cividis", matplotlib.colormaps["cividis"]([i / 255 for i in range(226)])
)
_ONE_COLOUR = "#0072b2"
# Half the height of a strip; strips are 1 apart.
_HALF_HEIGHT = 0.3


def plot_arms(rows: Sequence[Row], metric: Metric = "top1") -> Figure:
    """Draw a strip for each arm, cheapest first: a dot for each cell, the mean as a bar.

    The value is the gain on the untuned trunk in the same cell, in points of the metric on val;
    where the untuned arm was not run, or no other was, it is the metric itself. A cell has the same
    height in all strips: cells are in the order of test over train resolution.

    Args:
        rows: at least one of val; rows of other splits are ignored.
    """
    rows = [r for r in rows if r.split == "val"]
    untuned = {r.cell: r for r in rows if r.arm == UNTUNED}
    gains = any(r.arm != UNTUNED and r.cell in untuned for r in rows)
    if gains:
        rows = [r for r in rows if r.arm != UNTUNED and r.cell in untuned]
    values = {
        r: 100 * (r.own_value(metric) - (untuned[r.cell].own_value(metric) if gains else 0))
        for r in rows
    }
    names = sorted({r.arm for r in rows}, key=rank)
    cells = len({r.cell for r in rows})
    over = f"{cells} cells" if cells > 1 else "1 cell"
    words = IN_WORDS[metric]
    of_each = f"{sentence_case(words)} of each arm"
    what = "Gain of each arm on the untuned trunk" if gains else of_each
    title = f"{what} ({over}, val, n = {rows[0].n}{crossfit_note(rows)})"
    figure = new_figure(8.5, 0.62 * len(names) + 1.7, title)
    ax = figure.subplots()
    ratios = sorted({_ratio(r) for r in rows})
    norm = LogNorm(ratios[0], ratios[-1]) if len(ratios) > 1 else None
    _strips(ax, names, values, norm, signed=gains)
    _label_axes(ax, names, words, gains=gains)
    _annotate_times(ax, names, rows)
    if norm is not None:
        _colour_bar(figure, ax, norm)
    return figure


def _ratio(row: Row) -> float:
    return row.test_res / row.train_res


def _strips(
    ax: Axes,
    names: Sequence[str],
    values: dict[Row, float],
    norm: LogNorm | None,
    *,
    signed: bool,
) -> None:
    """Draw the dots and the means."""
    heights = _heights(list(values))
    for line, name in enumerate(names):
        own = [r for r in values if r.arm == name]
        colours = [_ratio(r) for r in own] if norm else _ONE_COLOUR
        ax.scatter(
            [values[r] for r in own], [line + heights[r.cell] for r in own], c=colours,
            cmap=_COLOURS if norm else None, norm=norm, s=20 if len(heights) <= 60 else 9,
            linewidths=0, alpha=0.9, zorder=3, rasterized=len(values) > MAX_MARKS,
        )  # fmt: skip
        mean = fmean(values[r] for r in own)
        ax.vlines(
            mean,
            line - _HALF_HEIGHT - 0.05,
            line + _HALF_HEIGHT + 0.05,
            color=INK,
            linewidth=2,
            zorder=4,
        )
        ax.annotate(
            (f"{mean:+.1f}" if signed else f"{mean:.1f}").replace("-", "−"),
            xy=(mean, line - _HALF_HEIGHT - 0.05), xytext=(0, 1), textcoords="offset points",
            ha="center", va="bottom", fontsize=SMALL, weight="bold", color=INK,
            path_effects=HALO, zorder=5,
        )  # fmt: skip


def _heights(rows: Sequence[Row]) -> dict[str, float]:
    """Place each cell in a strip, by test over train resolution, the smallest first."""
    row_of = {r.cell: r for r in rows}
    order = sorted(
        row_of, key=lambda c: (_ratio(row_of[c]), row_of[c].train_res, row_of[c].variant, c)
    )
    last = max(len(order) - 1, 1)
    return {
        cell: (2 * i / last - 1) * _HALF_HEIGHT if len(order) > 1 else 0.0
        for i, cell in enumerate(order)
    }


def _label_axes(ax: Axes, names: Sequence[str], words: str, *, gains: bool) -> None:
    """Draw the axes and the zero line, and describe each arm."""
    style_axes(ax, grid="x")
    ax.set_ylim(len(names) - 0.5, -0.8)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS))
    unit = f"gain in val {words} (points)" if gains else f"val {words} (%)"
    ax.set_xlabel(f"{unit}; a dot a cell, bars: means", fontsize=NORMAL, color=INK)
    if gains:
        ax.axvline(0, color=QUIET, linewidth=1, zorder=2)
        ax.annotate(
            f"untuned ({UNTUNED})", xy=(0, 1), xycoords=ax.get_xaxis_transform(), xytext=(0, 3),
            textcoords="offset points", ha="center", va="bottom", fontsize=SMALL, color=QUIET,
        )  # fmt: skip
    for line, name in enumerate(names):
        described = textwrap.wrap(ARMS[name].words, 40, break_on_hyphens=False)
        top = (11 + 9 * len(described)) / 2
        where: dict[str, Any] = {"xy": (0, line), "xycoords": ax.get_yaxis_transform()}
        how: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "top"}
        ax.annotate(
            name, xytext=(-8, top), **where, **how, fontsize=NORMAL, weight="bold", color=INK
        )
        ax.annotate(
            "\n".join(described), xytext=(-8, top - 12), **where, **how, fontsize=7, color=QUIET
        )


def _annotate_times(ax: Axes, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Write at the right margin the mean time that each arm took."""
    how: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": SMALL}
    for line, name in enumerate(names):
        took = duration(fmean(r.seconds for r in rows if r.arm == name))
        ax.annotate(
            took, xy=(1, line), xycoords=ax.get_yaxis_transform(), xytext=(62, 0), ha="right",
            color=INK, **how,
        )  # fmt: skip
    ax.annotate(
        "time a cell, beside\nthe arms above", xy=(1, -0.75), xycoords=ax.get_yaxis_transform(),
        xytext=(8, 0), ha="left", color=QUIET, **how,
    )  # fmt: skip


def _colour_bar(figure: Figure, ax: Axes, norm: LogNorm) -> None:
    """Explain which colour stands for which ratio."""
    bar = figure.colorbar(
        ScalarMappable(norm, _COLOURS), ax=ax, location="bottom", shrink=0.5, aspect=32, pad=0.02
    )
    low, high = norm.vmin or 1.0, norm.vmax or 1.0
    ticks = [low, *(t for t in (1.0,) if low * 1.15 < t < high / 1.15), high]
    bar.ax.xaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.2f}"))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, colors=QUIET, labelcolor=INK, length=2)
    bar.set_label("colour: test over train resolution", fontsize=SMALL, color=INK)
