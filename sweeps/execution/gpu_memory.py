"""Estimate the GPU memory that each trunk and cell of a plan needs, in its precision. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sweeps.execution.resources import MemoryNeed, NetAtRes
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from trainables.fixres.arms import ARMS
from trainables.models.parts.tensor_names import CLASSIFIER, STATISTICS
from trainables.profiling.training_memory import (
    MapPrecision,
    cell_bytes,
    forward_bytes,
    needed_gb,
    scoring_bytes,
    step_bytes,
)
from trainables.training.train_step import MIN_MICRO_BATCH

# Times the training batch that a frozen net may have at once, the largest first.
FROZEN_FACTORS = (8, 4, 2)


def trunk_memory_needs(plan: Plan) -> dict[NetAtRes, MemoryNeed]:
    """Estimate what the trunks need, by variant and train resolution (px)."""
    return {
        (point.variant, point.train_res): trunk_memory_need(plan, point) for point in plan.points
    }


def trunk_memory_need(plan: Plan, point: Point) -> MemoryNeed:
    """Estimate what one trunk needs.

    It is the memory of a training step, or of scoring at the largest test resolution if that is
    more: the most that any draw of the hyperparameters takes, as the point's trunks are not known.
    """
    # A worker takes two images at least: where memory runs out, no less is tried at once.
    max_workers = min(plan.possible("batch_size")) // 2 if plan.spec.trunks.epochs else 1
    return MemoryNeed(gb=partial(_trunk_gb, plan, point), max_workers=max_workers)


def cell_memory_needs(plan: Plan) -> dict[NetAtRes, MemoryNeed]:
    """Estimate what the cells need, by variant and test resolution (px).

    Cells of several trunks may share a test resolution: the largest train resolution counts.
    """
    max_train_res: dict[NetAtRes, int] = {}
    for point, test_resolutions in plan.grid.tests.items():
        for test_res in test_resolutions:
            key = (point.variant, test_res)
            max_train_res[key] = max(point.train_res, max_train_res.get(key, 0))
    return {
        (variant, test_res): cell_memory_need(plan, variant, train_res, test_res)
        for (variant, test_res), train_res in max_train_res.items()
    }


def cell_memory_need(plan: Plan, variant: str, train_res: int, test_res: int) -> MemoryNeed:
    """Estimate what one cell needs; a cell always has one worker. Resolutions in px."""
    batch = plan.spec.trunks.batch_size
    return MemoryNeed(
        gb=lambda _: _cell_gb(plan, variant, train_res, test_res, batch), max_workers=1
    )


def frozen_batch(plan: Plan, variant: str, train_res: int, test_res: int, gb: float) -> int:
    """Say how many images a cell's passes have on a GPU at once, of which so many GB are its own.

    A frozen net keeps nothing for a backward pass: where training takes a batch, a multiple of it
    fits, and keeps the GPU busier. Resolutions in px.
    """
    batch = plan.spec.trunks.batch_size
    sizes = (batch * factor for factor in FROZEN_FACTORS)
    fitting = (n for n in sizes if _cell_gb(plan, variant, train_res, test_res, n) <= gb)
    return next(fitting, batch)


def images_at_once(plan: Plan, point: Point, gpu_gb: float, workers: int = 1) -> int | None:
    """Say how many images of a step are at once on the smallest GPU; None: all of a worker's.

    Training halves its share of a batch as often (:class:`.memory_fit.MemoryFit`); the batch of a
    step stays what is asked for, and so do learning rates.

    Returns:
        At least two, the fewest that are tried, whether they fit or not.
    """
    share = images = -(-max(plan.possible("batch_size")) // workers)
    if not plan.spec.trunks.epochs:
        return None
    while images > MIN_MICRO_BATCH and _step_gb(plan, point, images, workers) > gpu_gb:
        images = max(MIN_MICRO_BATCH, -(-images // 2))
    return images if images < share else None


def _trunk_gb(plan: Plan, point: Point, workers: int) -> float:
    max_test_res = max(plan.grid.tests[point])
    batch = -(-max(plan.possible("batch_size")) // workers)
    if not plan.spec.trunks.epochs:
        return needed_gb(_forward_bytes(plan, point.variant, max_test_res, batch))
    # At the train resolution and below it, a training step takes more than scoring.
    if max_test_res <= point.train_res:
        return _step_gb(plan, point, batch, workers)
    scoring = _training_gb(plan, scoring_bytes, point.variant, max_test_res, batch, workers)
    return max(_step_gb(plan, point, batch, workers), scoring)


def _step_gb(plan: Plan, point: Point, batch: int, workers: int) -> float:
    return _training_gb(plan, step_bytes, point.variant, point.train_res, batch, workers)


def _training_gb(
    plan: Plan, count: Callable[..., int], variant: str, res: int, batch: int, workers: int
) -> float:
    """Convert the most that ``count`` gives for any draw of the hyperparameters."""
    peak_bytes = max(
        count(
            variant,
            res,
            batch=batch,
            classes=len(plan.classes),
            precision=_precision(plan),
            optimizer=optimizer,
            ema=max(plan.possible("ema_decay")) > 0,
            workers=workers,
        )
        for optimizer in plan.possible("optimizer")
    )
    return needed_gb(peak_bytes)


def _cell_gb(plan: Plan, variant: str, train_res: int, test_res: int, batch: int) -> float:
    fix, classes = plan.spec.fix, len(plan.classes)
    arms = [ARMS[name] for name in fix.arms]
    fitted_arms = [arm for arm in arms if {CLASSIFIER, STATISTICS} <= set(arm.changes)]
    views = max((fix.views if arm.needs_mild_views else 1 for arm in fitted_arms), default=0)
    is_streamed = plan.streams("train", variant, test_res)
    peak_bytes = cell_bytes(
        variant,
        test_res,
        batch=batch,
        classes=classes,
        precision=_precision(plan),
        # In half precision where they are streamed: two of them take as much as one.
        features=views * plan.counts["train"] // (1 + is_streamed) + plan.counts["val"],
        has_slopes=is_streamed,
        settings=len(plan.head_grid.settings) if fitted_arms else 0,
    )
    if any(arm.sampled for arm in arms):
        peak_bytes = max(peak_bytes, _forward_bytes(plan, variant, train_res, batch))
    return needed_gb(peak_bytes)


def _forward_bytes(plan: Plan, variant: str, res: int, batch: int) -> int:
    classes, precision = len(plan.classes), _precision(plan)
    return forward_bytes(variant, res, batch=batch, classes=classes, precision=precision)


def _precision(plan: Plan) -> MapPrecision:
    """Return the precision that memory is counted for: fp16 takes as much as bf16."""
    return "float32" if plan.spec.resources.precision == "fp32" else "bf16"
