"""The plan of a sweep: its trunks and cells, what each costs to serve, and the work ahead. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from sweeps.planning.grid import Grid, Point, resolve_grid
from sweeps.planning.serving_limits import limits_set, three_digits
from sweeps.planning.spec import SweepSpec, option
from trainables.data.image_set import ImageSet
from trainables.errors import UserError
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.models import variants
from trainables.models.weights import Weights
from trainables.profiling.cost import Cost, cost
from trainables.sources.splits import SPLITS
from trainables.storage.object_store import is_uri
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import TrunkSpec
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.eval_transform import EvalTransform

BACKWARD = 3  # a training step costs about three forward passes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done, at most: ASHA may cut trunks short."""

    spec: SweepSpec
    grid: Grid
    images_digest: str
    counts: Mapping[str, int]  # images by split
    classes: tuple[str, ...]
    weights: Mapping[str, Weights]  # by variant
    costs: Mapping[tuple[str, int], Cost]  # by variant and resolution

    @property
    def name(self) -> str:
        """Of the images: their folder's, without the way to it."""
        data = self.spec.images.data
        if data is None:
            return "built-in digits"
        if is_uri(data):
            parts = urlsplit(data)
            return PurePosixPath(unquote(parts.path)).name or parts.netloc
        return Path(data).expanduser().resolve().name

    @property
    def points(self) -> tuple[Point, ...]:
        return tuple(self.grid.tests)

    @property
    def trunks(self) -> int:
        return len(self.points) * self.samples

    @property
    def samples(self) -> int:
        """Trunks of a point: one, if the ranges leave nothing to try."""
        options = self.spec.trunks
        ranges = (options.lr, options.weight_decay, options.label_smoothing)
        choice = options.epochs > 0 and any(low < high for low, high in ranges)
        return options.samples if choice else 1

    @property
    def cells(self) -> int:
        return self.survivors * sum(map(len, self.grid.tests.values()))

    @property
    def survivors(self) -> int:
        """Trunks of a point that are fixed."""
        return min(self.spec.fix.survivors, self.samples)

    def trunk(self, point: Point, hyper: Hyper) -> TrunkSpec:
        options = self.spec.trunks
        return TrunkSpec(
            variant=point.variant,
            train_res=point.train_res,
            weights=self.weights[point.variant],
            images=self.images_digest,
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

    def transform(self, variant: str, test_res: int) -> EvalTransform:
        """What the variant is tested through."""
        fix = self.spec.fix
        native = variants.preprocessing(variants.get(variant)).interpolation
        return EvalTransform(
            test_res=test_res,
            crop_pct=fix.test_crop_pct,
            interpolation=native if fix.interpolation == "weights" else fix.interpolation,
        )

    def val_transforms(self, point: Point) -> tuple[EvalTransform, ...]:
        """What a trunk is scored through at its rungs."""
        return tuple(self.transform(point.variant, res) for res in self.grid.tests[point])

    def cell(self, variant: str, trunk: str, test_res: int) -> CellSpec:
        fix = self.spec.fix
        return CellSpec(
            trunk=trunk,
            transform=self.transform(variant, test_res),
            arms=fix.arms,
            heads=HeadGrid(
                lr=fix.head_lr,
                label_smoothing=fix.head_smoothing,
                weight_decay=fix.head_weight_decay,
                optimizer=fix.head_optimizer,
                epochs=fix.head_epochs,
                patience=fix.head_patience,
                batch_size=fix.head_batch_size,
            ),
            views=fix.views,
            batch_size=self.spec.trunks.batch_size,
            seed=self.spec.run.seed,
        )

    def epoch_work(self, point: Point, epoch: int) -> float:
        """GMACs of one epoch, with the scoring of val after it if it is a rung."""
        train = BACKWARD * self.counts["train"] * self.costs[point.variant, point.train_res].gmacs
        work = train if epoch > 0 else 0.0
        if epoch in self.spec.rungs:
            tests = self.grid.tests[point]
            work += self.counts["val"] * sum(self.costs[point.variant, r].gmacs for r in tests)
        return work

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
        """GMACs of one cell."""
        return self.cell_images(variant) * self.costs[variant, test_res].gmacs

    def cell_images(self, variant: str) -> int:
        """Images through the net in a cell: see :mod:`trainables.fixres.adapt`."""
        fix, arms = self.spec.fix, [ARMS[name] for name in self.spec.fix.arms]
        native = variants.preprocessing(variants.get(variant)).crop_pct
        train = int(any(arm.needs_train for arm in arms))
        train += fix.views * any(arm.needs_mild_views for arm in arms)
        val = int(not all(arm.native_crop for arm in arms))
        val += native != fix.test_crop_pct and any(arm.native_crop for arm in arms)
        return train * self.counts["train"] + max(1, val) * self.counts["val"]

    @property
    def image_passes(self) -> dict[str, int]:
        """Images through the net: forward and backward, and forward alone, at most."""
        trained = self.trunks * self.spec.trunks.epochs * self.counts["train"]
        tests = {point: len(tests) for point, tests in self.grid.tests.items()}
        scored = self.samples * len(self.spec.rungs) * sum(tests.values()) * self.counts["val"]
        cells = self.survivors * sum(n * self.cell_images(p.variant) for p, n in tests.items())
        return {"trained": trained, "scored at rungs": scored, "adapted in cells": cells}


def build_plan(spec: SweepSpec, images: ImageSet, weights: Iterable[Weights]) -> Plan:
    """Raises:
    UserError: no cell can be within the serving limits, or the weights do not fit the classes.
    """
    grid = resolve_grid(spec, images.split("train").sizes)
    plan = Plan(
        spec=spec,
        grid=grid,
        images_digest=images.digest,
        counts={s: len(images.split(s)) for s in SPLITS},
        classes=images.classes,
        weights={w.variant: w for w in weights},
        costs={
            (point.variant, r): cost(point.variant, r, len(images.classes))
            for point, tests in grid.tests.items()
            for r in sorted({point.train_res, *tests})
        },
    )
    _check_limits(plan)
    if spec.trunks.epochs == 0:
        _check_classifiers(plan)
    return plan


def _check_classifiers(plan: Plan) -> None:
    for weights in plan.weights.values():
        if weights.classes != len(plan.classes):
            raise UserError(
                f"--epochs 0 keeps the classifier of {weights.variant}'s weights, of "
                f"{weights.classes} classes, and the images are of {len(plan.classes)}: give the "
                "images that it was trained on, or train for some epochs."
            )


def _check_limits(plan: Plan) -> None:
    served = [
        (plan.costs[p.variant, r], p.variant, r)
        for p, tests in plan.grid.tests.items()
        for r in tests
    ]
    known = [bound for bound in limits_set(plan.spec.serving) if hasattr(served[0][0], bound.cost)]
    for bound in known:
        least, variant, res = min((bound.value(cost), v, r) for cost, v, r in served)
        if least > bound.limit:
            raise UserError(
                f"{option(bound.name)} {bound.limit} rules out every cell: the least is "
                f"{three_digits(least)} ({variant} at {res} px); raise it, or sweep smaller ones."
            )
    if not any(all(bound.admits(cost) for bound in known) for cost, _, _ in served):
        asked = " and ".join(f"{option(bound.name)} {bound.limit}" for bound in known)
        raise UserError(
            f"{asked} together rule out every cell: raise one of them, or sweep smaller ones."
        )
