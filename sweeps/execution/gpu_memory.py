"""What each trunk and cell of a plan needs of a GPU, where the work is done in bf16. Pure."""

from __future__ import annotations

from functools import partial

from sweeps.execution.resources import MemoryNeed, NetAtRes
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from trainables.fixres.arms import ARMS
from trainables.models.tensor_names import CLASSIFIER, STATISTICS
from trainables.profiling.training_memory import cell_bytes, forward_bytes, needed_gb, step_bytes


def of_trunks(plan: Plan) -> dict[NetAtRes, MemoryNeed]:
    """By variant and train resolution."""
    return {(point.variant, point.train_res): of_trunk(plan, point) for point in plan.points}


def of_trunk(plan: Plan, point: Point) -> MemoryNeed:
    """Of its training, or of scoring it at its largest test resolution if that is more."""
    options = plan.spec.trunks
    # Batch norm needs company: two images for each worker.
    most = options.batch_size // 2 if options.epochs else 1
    return MemoryNeed(gb=partial(_trunk_gb, plan, point), max_workers=most)


def of_cells(plan: Plan) -> dict[NetAtRes, MemoryNeed]:
    """By variant and test resolution, of whichever trunk."""
    trained: dict[NetAtRes, int] = {}
    for point, tests in plan.grid.tests.items():
        for res in tests:
            trained[point.variant, res] = max(point.train_res, trained.get((point.variant, res), 0))
    return {
        (variant, res): of_cell(plan, variant, train_res, res)
        for (variant, res), train_res in trained.items()
    }


def of_cell(plan: Plan, variant: str, train_res: int, test_res: int) -> MemoryNeed:
    """Always of one worker."""
    return MemoryNeed(gb=lambda _: _cell_gb(plan, variant, train_res, test_res), max_workers=1)


def _trunk_gb(plan: Plan, point: Point, workers: int) -> float:
    options, largest = plan.spec.trunks, max(plan.grid.tests[point])
    batch, classes = -(-options.batch_size // workers), len(plan.classes)
    most = 0
    if options.epochs:
        most = step_bytes(
            point.variant,
            point.train_res,
            batch=batch,
            classes=classes,
            precision="bf16",
            optimizer=options.optimizer,
            ema=options.ema_decay > 0,
        )
    if largest > point.train_res or not options.epochs:  # else a step takes more than a forward
        most = max(most, _forward(point.variant, largest, batch, classes))
    return needed_gb(most)


def _cell_gb(plan: Plan, variant: str, train_res: int, test_res: int) -> float:
    fix, batch, classes = plan.spec.fix, plan.spec.trunks.batch_size, len(plan.classes)
    arms = [ARMS[name] for name in fix.arms]
    fitted = [arm for arm in arms if {*CLASSIFIER, *STATISTICS} <= set(arm.changes)]
    views = max((fix.views if arm.needs_mild_views else 1 for arm in fitted), default=0)
    most = cell_bytes(
        variant,
        test_res,
        batch=batch,
        classes=classes,
        precision="bf16",
        features=views * plan.counts["train"] + plan.counts["val"],
        settings=len(plan.head_grid.settings) if fitted else 0,
    )
    if any(arm.needs_train_res for arm in arms):
        most = max(most, _forward(variant, train_res, batch, classes))
    return needed_gb(most)


def _forward(variant: str, res: int, batch: int, classes: int) -> int:
    return forward_bytes(variant, res, batch=batch, classes=classes, precision="bf16")
