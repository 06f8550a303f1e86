"""Plot a sweep as heat maps: one for each variant, before and after the fix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweeps.planning.cell import crop_in_words
from sweeps.planning.grid import Grid
from sweeps.planning.plan import Plan
from sweeps.report.style import sentence_case
from sweeps.selection.leaderboard import Row, crossfit_note
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.fixres.arms import ARMS, rank
from trainables.storage.replacing import replacing

UNTOUCHED = 0  # stands for the train resolution of the strip of untouched nets
# With more cells than this the maps are small, and colours alone tell their values.
MAX_NUMBERS = 1_000
SMALL_WIDTH, SMALL_HEIGHT = 4.2, 2.4  # of such a map, inches
# Colour-blind readers see these colours alike.
COLOURS = matplotlib.colormaps["cividis"]


def plot_heatmaps(rows: Sequence[Row], plan: Plan, chosen: Row, metric: Metric = "top1") -> Figure:
    """Draw val over train and test resolution; for each variant, before and after the fix.

    Untouched nets have a strip of their own, above the others. Of several trunks of a point and of
    several crop ratios, the best is shown; where a sweep has several crops, under the number. All
    maps share one colour scale. Where the cells are too many for numbers, a dot marks the best test
    resolution of each row instead.
    """
    grid, variants = plan.grid, plan.spec.grid.variants
    shown = _shown_arms(plan.spec.fix.arms, chosen)
    val = [r for r in rows if r.split == "val" and r.arm in shown]
    shares = [100 * r.value(metric) for r in val]
    limits = (min(shares), max(max(shares), min(shares) + 1e-6))
    strips = plan.spec.trunks.epochs > 0 and any(r.untouched for r in val)
    numbered = bears_numbers(plan, chosen)
    figure = _new_figure(plan, len(shown), strips=strips, numbered=numbered)
    axes = figure.subplots(len(variants), len(shown), squeeze=False, sharex="row", sharey="row")
    for line, variant in zip(axes, variants, strict=True):
        for ax, (arm, title) in zip(line, shown.items(), strict=True):
            own = [r for r in val if r.variant == variant and r.arm == arm]
            trains = [*([UNTOUCHED] if strips else []), *grid.of(variant).train_res]
            shade = _Shade(limits=limits, metric=metric, numbered=numbered)
            image = _draw(ax, own, trains, grid.of(variant), plan, shade, chosen)
            ax.set_title(f"{variant}, {title}", fontsize=10, loc="left")
        line[0].set_ylabel("train resolution (px)")
    for ax in axes[-1]:
        ax.set_xlabel("test resolution (px)")
    n = val[0].n
    title = f"{sentence_case(IN_WORDS[metric])} on val (%, n = {n}{crossfit_note(val)})"
    title += ", at the best crop" if len(grid.crop_pct) > 1 else ""
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
    bar = figure.colorbar(image, ax=axes, shrink=0.8 if numbered else 0.2, pad=0.015)
    bar.outline.set_visible(False)
    bar.set_label(f"val {IN_WORDS[metric]} (%)")
    return figure


def bears_numbers(plan: Plan, chosen: Row) -> bool:
    """Whether the maps' cells are few enough for each to bear its number."""
    variants = plan.spec.grid.variants
    sides = [plan.grid.of(variant) for variant in variants]
    of_an_arm = sum(len(grid.train_res) * len(grid.test_res) for grid in sides)
    return len(_shown_arms(plan.spec.fix.arms, chosen)) * of_an_arm <= MAX_NUMBERS


def _new_figure(plan: Plan, arms: int, *, strips: bool, numbered: bool) -> Figure:
    """Make a figure with room for a map of each variant and arm."""
    grids = [plan.grid.of(variant) for variant in plan.spec.grid.variants]
    wide = max(len(grid.test_res) for grid in grids)
    high = max(len(grid.train_res) for grid in grids) + strips
    if numbered:
        width, height, dpi = 1.05 * max(3, wide), 0.62 * max(2, high), 160
    else:
        width, height, dpi = SMALL_WIDTH, SMALL_HEIGHT, 130
    size = (arms * (width + 1.1) + 1.2, len(grids) * (height + 1.35) + 0.6)
    return Figure(figsize=size, dpi=dpi, layout="constrained")


def _shown_arms(arms: Sequence[str], chosen: Row) -> dict[str, str]:
    """Choose the arms to show, before and after, with a title for each."""
    untuned = [a for a in arms if not ARMS[a].is_adapted]
    tuned = [a for a in ("fix", *sorted(arms, key=rank, reverse=True)) if a in arms]
    tuned = [a for a in tuned if ARMS[a].is_adapted]
    after = chosen.arm if ARMS[chosen.arm].is_adapted else next(iter(tuned), None)
    shown = {}
    if untuned:
        before = min(untuned, key=rank)
        shown[before] = f"before: as trained (arm {before})"
    if after:
        shown[after] = f"after: adapted (arm {after})"
    return shown


@dataclass(frozen=True, kw_only=True)
class _Shade:
    """How the value of a cell is shown."""

    limits: tuple[float, float]
    """Of the colours, %."""
    metric: Metric
    numbered: bool
    """Whether numbers stand in the cells."""

    def ink(self, value: float) -> str:
        """Choose a colour that can be read on that of a value, %."""
        low, high = self.limits
        return "black" if (value - low) / (high - low) > 0.55 else "white"


def _draw(
    ax: Axes,
    rows: Sequence[Row],
    trains: Sequence[int],
    grid: Grid,
    plan: Plan,
    shade: _Shade,
    chosen: Row,
) -> matplotlib.image.AxesImage:
    tests = grid.test_res
    best = _best_by_resolutions(rows, chosen, shade.metric, strips=UNTOUCHED in trains)
    values = np.full((len(trains), len(tests)), np.nan)
    places = {
        (train, test): (tests.index(test), trains.index(train)) for train, test in best
    }  # x, y
    for at, row in best.items():
        values[places[at][::-1]] = 100 * row.value(shade.metric)
    low, high = shade.limits
    image = ax.imshow(values, cmap=COLOURS, vmin=low, vmax=high, aspect="auto")
    # Numbers of resolutions are 0.4 inches apart or more, one above the other 0.15.
    every = 1 if shade.numbered else math.ceil(len(tests) / (SMALL_WIDTH / 0.4))
    ax.set_xticks(range(0, len(tests), every), [str(t) for t in tests[::every]])
    every = 1 if shade.numbered else math.ceil(len(trains) / (SMALL_HEIGHT / 0.15))
    names = [str(t) if t else "untouched" for t in trains[::every]]
    ax.set_yticks(range(0, len(trains), every), names)
    if not shade.numbered:
        ax.tick_params(labelsize=8)
    if UNTOUCHED in trains:
        ax.axhline(0.5, color="white", linewidth=4 if shade.numbered else 1.5)
    ax.tick_params(length=0, labelleft=True, labelbottom=True)
    for spine in ax.spines.values():
        spine.set_visible(False)
    peaks = [at for at in best if _peak(best, at[0], shade.metric) == at[1]]
    whole = {at: plan.epochs_of(row.parent_res > 0) for at, row in best.items()}
    cut = [at for at, row in best.items() if row.trunk_epochs < whole[at] and not row.untouched]
    for at, row in best.items():
        x, y = places[at]
        if shade.numbered:
            notes = [f"crop {crop_in_words(row.crop_pct)}"] if len(grid.crop_pct) > 1 else []
            notes += [f"{row.trunk_epochs} of {whole[at]} epochs"] if at in cut else []
            _number(ax, x, y, values[y, x], shade, notes, bold=at in peaks)
        elif at in peaks:
            ink, mark = shade.ink(values[y, x]), "x" if at in cut else "o"
            ax.plot(x, y, mark, color=ink, markersize=3, markeredgewidth=1)
        if (row.cell, row.arm) == (chosen.cell, chosen.arm):
            box = matplotlib.patches.Rectangle(
                (x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor="#d62728", linewidth=2.5
            )
            ax.add_patch(box)
    return image


def _number(
    ax: Axes, x: int, y: int, value: float, shade: _Shade, notes: Sequence[str], *, bold: bool
) -> None:
    """Write a cell's value, and what is to be known of it below."""
    ink: dict[str, Any] = {"color": shade.ink(value), "ha": "center", "va": "center"}
    weight = "bold" if bold else "normal"
    ax.text(x, y, f"{value:.1f}", weight=weight, fontsize=10, **ink)
    if notes:
        ax.text(x, y + 0.3, "\n".join(notes), fontsize=5.5, **ink)


def _best_by_resolutions(
    rows: Sequence[Row], chosen: Row, metric: Metric, *, strips: bool
) -> dict[tuple[int, int], Row]:
    """Find the best row at each train and test resolution, the chosen one among equals.

    Args:
        strips: whether untouched rows are by themselves, under ``UNTOUCHED``.
    """
    best: dict[tuple[int, int], Row] = {}
    for row in sorted(rows, key=lambda r: (r.value(metric), r == chosen), reverse=True):
        train = UNTOUCHED if strips and row.untouched else row.train_res
        best.setdefault((train, row.test_res), row)
    return best


def _peak(best: dict[tuple[int, int], Row], train: int, metric: Metric) -> int | None:
    """Find the test resolution (px) at which the trunk of a train resolution does best."""
    line = [(row.value(metric), -test) for (t, test), row in best.items() if t == train]
    return -max(line)[1] if line else None


def save_png(figure: Figure, path: Path) -> None:
    """Save the figure as a PNG file, which appears whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
