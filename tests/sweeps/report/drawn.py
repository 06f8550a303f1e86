"""Rows and trunks to draw, and what can be read from a figure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations, product
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sweeps.events.event_types import TrunkEnded
from sweeps.report.style import CHOSEN
from sweeps.selection.leaderboard import Row
from tests.factories import a_row
from trainables.evaluation.metrics import Score
from trainables.fixres.arms import rank
from trainables.models.weights import Weights
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

SHOWN_ARMS = ("none", "pool", "bn", "fix")


def rows_of(
    variants: Sequence[str], trains: Sequence[int], tests: Sequence[int], *, latency: bool = True
) -> list[Row]:
    """Made-up rows of every cell and arm: the larger the better, with noise."""
    rng = random.Random(0)
    rows = []
    for v, tr, te, arm in product(variants, trains, tests, SHOWN_ARMS):
        size = 1 + variants.index(v)
        share = 0.6 + 0.03 * min(size, 5) + 0.06 * math.log2(te / 64) + 0.01 * rank(arm)
        rows.append(
            a_row(
                round(1000 * (share + rng.gauss(0, 0.01))), 1000, variant=v, train_res=tr,
                test_res=te, arm=arm, gmacs=size * (te / 224) ** 2, params_m=4.0 * size,
                latency_ms=5 + size * te / 50 if latency else None, seconds=0.5 * (1 + rank(arm)),
            )
        )  # fmt: skip
    return rows


ONE = rows_of(("b0",), (128,), (160,), latency=False)
THREE = rows_of(("b3", "b0", "b1"), (128, 160, 224), (128, 160, 224, 288))
CHOSEN_ROW = next(r for r in THREE if (r.label, r.arm) == ("b1 160 -> 224 px, crop 1.0", "fix"))


def a_trunk(
    variant: str = "b0", res: int = 128, *,
    lr: float = 1e-3, status: TrunkStatus = TrunkStatus.FINISHED,
    tops: dict[int, int] | None = None, losses: Sequence[float | None] = (2.0, 1.5, 1.0, 0.8),
) -> TrunkEnded:  # fmt: skip
    """
    Args:
        tops: hits of 100 after an epoch, at the best of two test resolutions.
    """
    tops = {2: 50, 4: 70} if tops is None else tops
    spec = TrunkSpec(
        variant=variant,
        train_res=res,
        weights=Weights(variant=variant, source="none", digest="none", name=None),
        images="0123456789abcdef",
        recipe=Recipe(epochs=4, batch_size=32),
        hyper=Hyper(lr=lr, weight_decay=0.01, label_smoothing=0.1),
        seed=0,
    )
    reports = []
    for epoch, loss in enumerate(losses, start=1):
        val = {}
        if epoch in tops:
            hits = tops[epoch]
            val = {
                res: Score(split="val", n=100, hits1=hits - 7, hits5=100),
                2 * res: Score(split="val", n=100, hits1=hits, hits5=100),
            }
        reports.append(
            EpochReport(
                epoch=epoch, loss=loss, train_top1=0.5, images=10, lr=lr, seconds=1.0, at=0,
                val=val, diverged=loss is None,
            )
        )  # fmt: skip
    return TrunkEnded(trunk=spec, status=status, reports=tuple(reports))


FOUR = [
    a_trunk(lr=1e-3),
    a_trunk(lr=2e-3, status=TrunkStatus.CUT, tops={2: 40}, losses=(2.1, 1.9)),
    a_trunk(lr=3e-3, status=TrunkStatus.DIVERGED, tops={2: 30}, losses=(2.2, 9.0, None)),
    a_trunk(lr=4e-3, tops={2: 55, 4: 68}),
]


def texts(figure: Figure) -> list[Text]:
    """All that can be read, but for tick labels of other axes' ticks."""
    axes = [ax for ax in figure.axes if ax.axison]
    found = [t for ax in figure.axes for t in ax.texts]
    found += [t for t in (figure._suptitle, figure._supxlabel) if t]  # type: ignore[attr-defined]
    for ax in axes:
        found += [ax.xaxis.label, ax.yaxis.label, ax._left_title]  # type: ignore[attr-defined]
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            ticks = axis.get_major_ticks()
            inside = [t for t in ticks if min(low, high) <= t.get_loc() <= max(low, high)]
            found += [t.label1 for t in inside if t.label1.get_visible()]
    legends = [*figure.legends, *(legend for ax in figure.axes if (legend := ax.get_legend()))]
    for legend in legends:
        found += [*legend.get_texts(), legend.get_title()]
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def assert_readable(figure: Figure) -> None:
    """No text covers another or leaves the page."""
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts(figure)]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (one, a), (other, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, along) < 1, (one, other)  # pixels


def words(figure: Figure) -> list[str]:
    return [t.get_text() for t in texts(figure)]


def rings(ax: Axes) -> list[tuple[float, float]]:
    """Where something is ringed in red."""
    ringed = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert all(to_hex(line.get_markeredgecolor()) == CHOSEN for line in ringed)
    return [point for line in ringed for point in points(line)]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


def assert_same_each_time(make: Callable[[], Figure], folder: Path) -> None:
    """A figure that is made twice has the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "fixed"}):
        for name in ("a.svg", "b.svg"):
            make().savefig(folder / name, metadata={"Date": None})
    assert (folder / "a.svg").read_bytes() == (folder / "b.svg").read_bytes()
