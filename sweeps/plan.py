"""The plan of a sweep: its trunks and cells, what each costs to serve, and the work ahead. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from sweeps.spec import SweepSpec
from trainables import backbones, variants
from trainables.backbones import Weights
from trainables.decode import ImageSet
from trainables.errors import UserError
from trainables.fix import CellSpec
from trainables.heads import HeadGrid
from trainables.images import SPLITS
from trainables.transforms import Augmentation
from trainables.trunk import Hyper, Recipe, TrunkSpec

BACKWARD = 3  # a training step costs about three forward passes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """To serve one image."""

    params_m: float  # millions
    gmacs: float  # billions of multiply-adds, convolutions and linear layers


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where trunks are trained."""

    variant: str
    train_res: int  # px

    def __str__(self) -> str:
        return f"{self.variant} at {self.train_res}"


def point_of(trunk: TrunkSpec) -> Point:
    """Where a trunk is trained."""
    return Point(variant=trunk.variant, train_res=trunk.train_res)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done, at most: ASHA may cut trunks short."""

    spec: SweepSpec
    images: str  # digest
    counts: Mapping[str, int]  # images by split
    classes: tuple[str, ...]
    weights: Mapping[str, Weights]  # by variant
    costs: Mapping[tuple[str, int], Cost]  # by variant and resolution

    @property
    def points(self) -> tuple[Point, ...]:
        grid = self.spec.grid
        return tuple(Point(variant=v, train_res=r) for v in grid.variants for r in grid.train_res)

    @property
    def trunks(self) -> int:
        return len(self.points) * self.samples

    @property
    def samples(self) -> int:
        """Trunks of a point: one, if the ranges leave nothing to try."""
        options = self.spec.trunks
        ranges = (options.lr, options.weight_decay, options.label_smoothing)
        return options.samples if any(low < high for low, high in ranges) else 1

    @property
    def cells(self) -> int:
        survivors = min(self.spec.fix.survivors, self.samples)
        return len(self.points) * survivors * len(self.spec.grid.test_res)

    def trunk(self, point: Point, hyper: Hyper) -> TrunkSpec:
        options = self.spec.trunks
        return TrunkSpec(
            variant=point.variant,
            train_res=point.train_res,
            weights=self.weights[point.variant],
            images=self.images,
            recipe=Recipe(
                epochs=options.epochs,
                batch_size=options.batch_size,
                optimizer=options.optimizer,
                schedule=options.schedule,
                warmup_epochs=options.warmup_epochs,
                ema_decay=options.ema_decay,
                dropout=options.dropout,
                augmentation=Augmentation(crop_scale=options.crop_scale, hflip=options.hflip),
            ),
            hyper=hyper,
            seed=self.spec.run.seed,
        )

    def cell(self, trunk: str, test_res: int) -> CellSpec:
        fix = self.spec.fix
        return CellSpec(
            trunk=trunk,
            test_res=test_res,
            heads=HeadGrid(
                lr=fix.head_lr,
                label_smoothing=fix.head_smoothing,
                epochs=fix.head_epochs,
                batch_size=fix.head_batch_size,
            ),
            batch_size=self.spec.trunks.batch_size,
            seed=self.spec.run.seed,
        )

    def epoch_work(self, point: Point, epoch: int) -> float:
        """GMACs of one epoch, with the scoring of val after it if it is a rung."""
        train = BACKWARD * self.counts["train"] * self.costs[point.variant, point.train_res].gmacs
        if epoch not in self.spec.rungs:
            return train
        grid = self.spec.grid
        return train + self.counts["val"] * sum(
            self.costs[point.variant, r].gmacs for r in grid.test_res
        )

    def work_left(self, point: Point, after: int = 0) -> float:
        """GMACs of a trunk from epoch ``after`` + 1 to its end, if it is not cut."""
        epochs = range(after + 1, self.spec.trunks.epochs + 1)
        return sum(self.epoch_work(point, e) for e in epochs)

    def expected_work_left(self, point: Point, after: int = 0) -> float:
        """The same on average, if each rung lets 1/reduction go on."""
        work, alive = 0.0, 1.0
        for epoch in range(after + 1, self.spec.trunks.epochs + 1):
            work += alive * self.epoch_work(point, epoch)
            if epoch in self.spec.rungs:
                alive /= self.spec.halving.reduction
        return work

    def cell_work(self, variant: str, test_res: int) -> float:
        """GMACs of one cell: a pass over train and one over val."""
        passes = self.counts["train"] + self.counts["val"]
        return passes * self.costs[variant, test_res].gmacs

    @property
    def image_passes(self) -> dict[str, int]:
        """Images through the net: forward and backward, and forward alone, at most."""
        grid, options = self.spec.grid, self.spec.trunks
        trained = self.trunks * options.epochs * self.counts["train"]
        rungs = self.trunks * len(self.spec.rungs) * len(grid.test_res) * self.counts["val"]
        cells = self.cells * (self.counts["train"] + self.counts["val"])
        return {"trained": trained, "scored at rungs": rungs, "adapted in cells": cells}


def make(spec: SweepSpec, images: ImageSet, weights: Iterable[Weights]) -> Plan:
    """Raises:
    UserError: no cell can be within the serving limits, or the images are too few.
    """
    grid = spec.grid
    plan = Plan(
        spec=spec,
        images=images.digest,
        counts={s: len(images.split(s)) for s in SPLITS},
        classes=images.classes,
        weights={w.variant: w for w in weights},
        costs={
            (v, r): cost(v, r, len(images.classes))
            for v in grid.variants
            for r in sorted({*grid.train_res, *grid.test_res})
        },
    )
    _check_limits(plan)
    return plan


def cost(variant: str, res: int, classes: int) -> Cost:
    """Counted on the meta device: no arithmetic, no memory."""
    with torch.device("meta"):
        model = backbones.build(variants.get(variant), classes).eval()
    image = torch.empty(1, 3, res, res, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    params = sum(p.numel() for p in model.parameters())
    return Cost(params_m=params / 1e6, gmacs=counter.get_total_flops() / 2e9)


def _check_limits(plan: Plan) -> None:
    serving, grid = plan.spec.serving, plan.spec.grid
    served = [(plan.costs[v, r], v, r) for v in grid.variants for r in grid.test_res]
    limits = (("params_m", serving.max_params_m), ("gmacs", serving.max_gmacs))
    for name, limit in limits:
        least, variant, res = min((getattr(cost, name), v, r) for cost, v, r in served)
        if limit is not None and least > limit:
            raise UserError(
                f"--max-{name.replace('_', '-')} {limit} rules out every cell: the least is "
                f"{least:.3g} ({variant} at {res} px); raise it, or sweep smaller ones."
            )
    if not any(serving.allow(cost.params_m, cost.gmacs) for cost, _, _ in served):
        raise UserError(
            f"--max-params-m {serving.max_params_m} and --max-gmacs {serving.max_gmacs} together "
            "rule out every cell: raise one of them, or sweep smaller ones."
        )
