"""Made-up sweeps: how large they are, how their trunks learn, and what those take of a GPU.

An epoch takes what nominal_ms says. Learning curves rise to an accuracy that depends on the
hyperparameters, the better the sooner, and by chance, so that curves cross.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.savings.rungs import default_grace_epochs
from sweeps.planning.savings.screen import make_screen
from sweeps.planning.spec import SweepSpec
from sweeps.planning.workload import (
    TRAIN_STEP_FORWARDS,
    cell_images,
    nominal_epoch_s,
    nominal_ms,
    planned_cells,
)
from tests.factories import plan_of, spec_with
from trainables.evaluation.metrics import Score
from trainables.profiling.cost import cost
from trainables.training.recipe import Hyper
from trainables.training.trunk import EpochReport, TrunkSpec

BY_SIZE = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2")
EPOCHS, TRAIN, BATCH_SIZE = 20, 20_000, SweepSpec().trunks.batch_size


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a sweep is."""

    variants: tuple[str, ...]
    train_res: tuple[int, ...] = (128, 160, 224, 320)
    test_res: tuple[int, ...]
    samples: int
    val: int = 5_000  # images
    searcher: str = "tpe"


SIZES = {
    "small": Size(variants=("b0", "b1", "b2"), test_res=(128, 160, 224, 320), samples=4, val=1_000),
    "reference": Size(variants=BY_SIZE, test_res=(128, 160, 224, 288, 320, 384), samples=8),
    # Proposals by TPE would take hours.
    "large": Size(
        variants=BY_SIZE,
        test_res=(128, 160, 224, 288, 320, 384),
        samples=278,
        searcher="random",
    ),
}


def miss(point: Point, hyper: Hyper) -> float:
    """What the hyperparameters cost of the true accuracy after the last epoch."""
    best_lr = 3e-4 * (1 + BY_SIZE.index(point.variant)) ** 0.5
    lost = 0.03 * math.log10(hyper.lr / best_lr) ** 2
    lost += 0.004 * math.log10(hyper.weight_decay / 0.02) ** 2
    return lost + 0.2 * (hyper.label_smoothing - 0.08) ** 2


def base_of(point: Point) -> float:
    """What the best hyperparameters come to: six points more where the resolution doubles."""
    return 0.70 + 0.01 * BY_SIZE.index(point.variant) + 0.06 * math.log2(point.train_res / 224)


class Curves(Protocol):
    """How trunks learn."""

    wobble: float
    """Standard deviation of what an epoch adds to the true accuracy by chance."""

    @property
    def default_grace(self) -> int:
        """The first rung, of EPOCHS, where none is asked for."""

    def top1(self, trunk: TrunkSpec, epoch: int, start: float | None = None) -> float:
        """Tell the true accuracy after an epoch.

        Args:
            start: that of the trunk which it starts from; None: from the weights as they come.
        """


@dataclass(frozen=True)
class MadeUp:
    """Curves that rise exponentially; those of two seeds differ by chance from first to last.

    Trunks that end worse rise later, as two of the built-in sweep did: 48 and 66 % after two of six
    epochs, 88 and 92 % at the end. One that starts from another rises from what that came to, and
    comes with its fewer epochs to what it would have come to with all of them.

    Args:
        crossing: how much curves cross: the standard deviation of the logarithm of the pace.
        seeds_sd: that of the true accuracies of one configuration.
    """

    crossing: float
    seeds_sd: float = 0.0
    wobble: float = 0.005
    default_grace = default_grace_epochs(TRAIN, BATCH_SIZE)

    def top1(self, trunk: TrunkSpec, epoch: int, start: float | None = None) -> float:
        point, lost = point_of(trunk), miss(point_of(trunk), trunk.hyper)
        base = base_of(point) + self.seeds_sd * draws(f"{trunk.key} seed").standard_normal()
        luck = self.crossing * draws(trunk.key).standard_normal()
        pace = min(20.0, 2.0 * math.exp(30 * lost + luck))
        rise = (1 - math.exp(-epoch / pace)) / (1 - math.exp(-trunk.recipe.epochs / pace))
        end = base - lost
        start = 0.2 * end if start is None else start
        return start + (end - start) * rise


def draws(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def report_of(
    curves: Curves, plan: Plan, trunk: TrunkSpec, epoch: int, start: float | None = None
) -> EpochReport:
    """What an epoch reports: the true accuracy, its wobble, and the chance of val's few images."""
    rng = draws(f"{trunk.key} {epoch} {plan.spec.run.seed}")
    value = float(np.clip(curves.top1(trunk, epoch, start) + rng.normal(0, curves.wobble), 0, 1))
    val = plan.counts["val"]
    score = Score(split="val", n=val, hits1=int(rng.binomial(val, value)), hits5=val)
    is_rung = epoch in plan.rungs_to(trunk.recipe.epochs)
    return EpochReport(
        epoch=epoch, loss=1.0, train_top1=0.5, images=TRAIN, lr=trunk.hyper.lr, seconds=1.0,
        at=1000 * epoch, val={trunk.train_res: score} if is_rung else {},
    )  # fmt: skip


def dearest_trunk_seconds(plan: Plan) -> float:
    return max(
        sum(nominal_epoch_s(plan, point, epoch) for epoch in range(1, EPOCHS + 1))
        for point in plan.points
    )


def make_plan(size: Size, seed: int, grace: int, *, turned: bool = False, **options: Any) -> Plan:
    """Make a plan of that size, its options typed the other way round where it is ``turned``."""
    turn = slice(None, None, -1 if turned else 1)
    spec = spec_with(
        variants=size.variants[turn],
        train_res=size.train_res[turn],
        test_res=size.test_res[turn],
        epochs=EPOCHS,
        samples=size.samples,
        grace_epochs=grace,
        reduction=3,
        seed=seed,
        searcher=size.searcher,
    )
    spec = spec_with(spec, **options)
    sides = {*size.train_res, *size.test_res}
    costs = {(v, res): cost(v, res, 3) for v in size.variants for res in sides}
    plan = replace(plan_of(spec, train=TRAIN, val=size.val), costs=costs)
    return _screened(plan) if plan.is_to_be_screened else plan


def _screened(plan: Plan) -> Plan:
    """Leave points out, by what untouched nets are worth: as points are, with an error."""

    def worth(variant: str, res: int) -> float:
        error = 0.02 * draws(f"{variant} {res} {plan.spec.run.seed}").standard_normal()
        return base_of(Point(variant=variant, train_res=res)) + error

    return plan.screened(
        make_screen(
            plan.spec.grid.screen,
            plan.metric,
            plan.counts["val"],
            plan.grid.tests,
            worth,
            lambda point: nominal_ms(plan.costs[point.variant, point.train_res]),
            plan.bases,
        )
    )


def cells_seconds(plan: Plan) -> float:
    """What all cells take of a GPU."""
    return sum(
        count * _cell_seconds(plan, variant, res, arms)
        for (variant, res, arms), count in planned_cells(plan).items()
    )


def cell_seconds(plan: Plan, cell: Cell) -> float:
    """What a cell takes of a GPU."""
    return _cell_seconds(plan, cell.variant, cell.test_res, cell.spec.arms)


def _cell_seconds(plan: Plan, variant: str, res: int, arms: Sequence[str] | None) -> float:
    ms = cell_images(plan, arms) * nominal_ms(plan.costs[variant, res])
    return ms / TRAIN_STEP_FORWARDS / 1000
