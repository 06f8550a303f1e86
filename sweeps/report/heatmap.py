"""Plot a sweep as heat maps: one for each variant, before and after the fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
# Colour-blind readers see these colours alike.
COLOURS = matplotlib.colormaps["cividis"]


def plot_heatmaps(rows: Sequence[Row], plan: Plan, chosen: Row, metric: Metric = "top1") -> Figure:
    """Draw val over train and test resolution; for each variant, before and after the fix.

    Untouched nets have a strip of their own, above the others. Of several trunks of a point and of
    several crop ratios, the best is shown; where a sweep has several crops, under the number. All
    maps share one colour scale.
    """
    grid, variants = plan.grid, plan.spec.grid.variants
    shown = _shown_arms(plan.spec.fix.arms, chosen)
    val = [r for r in rows if r.split == "val" and r.arm in shown]
    shares = [100 * r.value(metric) for r in val]
    limits = (min(shares), max(max(shares), min(shares) + 1e-6))
    wide = max(len(grid.of(v).test_res) for v in variants)
    strips = plan.has_untouched and any(r.untouched for r in val)
    high = max(len(grid.of(v).train_res) for v in variants) + strips
    width = len(shown) * (1.05 * max(3, wide) + 1.1) + 1.2
    figure = Figure(
        figsize=(width, len(variants) * (0.62 * max(2, high) + 1.35) + 0.6),
        dpi=160,
        layout="constrained",
    )
    axes = figure.subplots(len(variants), len(shown), squeeze=False, sharex="row", sharey="row")
    for line, variant in zip(axes, variants, strict=True):
        for ax, (arm, title) in zip(line, shown.items(), strict=True):
            own = [r for r in val if r.variant == variant and r.arm == arm]
            epochs = plan.spec.trunks.epochs
            trains = [*([UNTOUCHED] if strips else []), *grid.of(variant).train_res]
            image = _draw(ax, own, trains, grid.of(variant), epochs, limits, chosen, metric)
            ax.set_title(f"{variant}, {title}", fontsize=10, loc="left")
        line[0].set_ylabel("train resolution (px)")
    for ax in axes[-1]:
        ax.set_xlabel("test resolution (px)")
    n = val[0].n
    title = f"{sentence_case(IN_WORDS[metric])} on val (%, n = {n}{crossfit_note(val)})"
    title += ", at the best crop" if len(grid.crop_pct) > 1 else ""
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.015)
    bar.outline.set_visible(False)
    bar.set_label(f"val {IN_WORDS[metric]} (%)")
    return figure


def _shown_arms(arms: Sequence[str], chosen: Row) -> dict[str, str]:
    """Choose the arms to show, before and after, with a title for each."""
    untuned = [a for a in arms if not ARMS[a].changes]
    tuned = [a for a in ("fix", *sorted(arms, key=rank, reverse=True)) if a in arms]
    tuned = [a for a in tuned if ARMS[a].changes]
    after = chosen.arm if ARMS[chosen.arm].changes else next(iter(tuned), None)
    shown = {}
    if untuned:
        before = min(untuned, key=rank)
        shown[before] = f"before: as trained (arm {before})"
    if after:
        shown[after] = f"after: adapted (arm {after})"
    return shown


def _draw(
    ax: Axes,
    rows: Sequence[Row],
    trains: Sequence[int],
    grid: Grid,
    epochs: int,
    limits: tuple[float, float],
    chosen: Row,
    metric: Metric,
) -> matplotlib.image.AxesImage:
    tests = grid.test_res
    best = _best_by_resolutions(rows, chosen, metric, strips=UNTOUCHED in trains)
    values = np.full((len(trains), len(tests)), np.nan)
    for (train, test), row in best.items():
        values[trains.index(train), tests.index(test)] = 100 * row.value(metric)
    image = ax.imshow(values, cmap=COLOURS, vmin=limits[0], vmax=limits[1], aspect="auto")
    ax.set_xticks(range(len(tests)), [str(t) for t in tests])
    ax.set_yticks(range(len(trains)), [str(t) if t else "untouched" for t in trains])
    if UNTOUCHED in trains:
        ax.axhline(0.5, color="white", linewidth=4)
    ax.tick_params(length=0, labelleft=True, labelbottom=True)
    for spine in ax.spines.values():
        spine.set_visible(False)
    peaks = {train: _peak(best, train, metric) for train in trains}
    for (train, test), row in best.items():
        y, x = trains.index(train), tests.index(test)
        shade = (values[y, x] - limits[0]) / (limits[1] - limits[0])
        notes = [f"crop {crop_in_words(row.crop_pct)}"] if len(grid.crop_pct) > 1 else []
        if row.trunk_epochs < epochs and not row.untouched:
            notes.append(f"{row.trunk_epochs} of {epochs} epochs")
        ink = "black" if shade > 0.55 else "white"
        weight = "bold" if peaks[train] == test else "normal"
        ax.text(
            x, y, f"{values[y, x]:.1f}", ha="center", va="center", color=ink, weight=weight,
            fontsize=10,
        )  # fmt: skip
        if notes:
            ax.text(x, y + 0.3, "\n".join(notes), ha="center", va="center", color=ink, fontsize=5.5)
        if (row.cell, row.arm) == (chosen.cell, chosen.arm):
            box = matplotlib.patches.Rectangle(
                (x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor="#d62728", linewidth=2.5
            )
            ax.add_patch(box)
    return image


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
