"""Plan a sweep: its trunks and cells, and the cost of serving each. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sweeps.planning.cell import Cell
from sweeps.planning.grid import Grid, Point, native_crop
from sweeps.planning.options.space import space_size
from sweeps.planning.options.touched import adapts
from sweeps.planning.savings.rungs import default_grace_epochs, rungs_to
from sweeps.planning.savings.screen import Screen
from sweeps.planning.search import Search, search_of
from sweeps.planning.spec import SweepSpec
from trainables.evaluation.class_metrics import Metric
from trainables.fixres.arms import UNTOUCHED_ARMS
from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.models import variants
from trainables.models.weights import Weights
from trainables.profiling import disk_use
from trainables.profiling.cost import Cost
from trainables.storage.object_store import is_uri, name_in
from trainables.training.class_balance import fitted_class_weights
from trainables.training.recipe import ClassWeights, Hyper, Recipe
from trainables.training.trunk import Parent, TrunkSpec
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.eval_transform import EvalTransform


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of a sweep, at most: ASHA may cut trunks short."""

    spec: SweepSpec
    grid: Grid
    images_digest: str
    counts: Mapping[str, int]  # images by split
    classes: tuple[str, ...]
    class_sizes: tuple[int, ...]  # images of each class, over all splits
    train_class_sizes: tuple[int, ...]  # those of train alone
    layout: str  # how the images lay, in words
    weights: Mapping[str, Weights]  # by variant
    costs: Mapping[tuple[str, int], Cost]  # by variant and resolution
    whites: Mapping[str, int] = field(default_factory=dict)  # by kind of image, as in the images
    splits: str = ""  # where they are from, in words; empty where it is not known
    near_duplicates: str = ""  # between the splits and extra test sets, in words
    screen: Screen | None = None  # which points are left out; None: none has been, or not yet
    untouched_grid: Grid | None = None  # with points that are left out; None: none is

    @property
    def name(self) -> str:
        """The name of the images: that of their folder, without the path to it."""
        data = self.spec.images.data
        if data is None:
            return "built-in digits"
        if is_uri(data):
            return name_in(data)
        return Path(data).expanduser().resolve().name

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of the grid, in its order."""
        return tuple(self.grid.tests)

    @property
    def trunks(self) -> int:
        """The number of trunks, over all points, repeats included."""
        return sum(self.trunks_at(point) for point in self.points)

    @cached_property
    def samples(self) -> int:
        """The number of trunks of a point that start from the weights as they come.

        No more than there are different ones to try.
        """
        if self.spec.trunks.epochs == 0:
            return 1
        return int(min(self.spec.search.samples, space_size(self.search.space)))

    def samples_at(self, point: Point) -> int:
        """Count the trunks of a point, their repeats not counted."""
        return self.samples if self.below(point) is None else self.samples_of_cascading

    @property
    def samples_of_cascading(self) -> int:
        """Likewise, of a point where they start from others."""
        return min(self.samples, self.spec.cascade_samples)

    def samples_with(self, first: TrunkSpec) -> int:
        """Count likewise, where the first trunk of the point has begun: all start as it does.

        That may be from the weights as they come in spite of ``--cascade``: there was no smaller
        train resolution yet, or none that had finished a trunk. Or from one of a smaller train
        resolution that is none of the plan's.
        """
        return self.samples if first.parent is None else self.samples_of_cascading

    def trunks_at(self, point: Point) -> int:
        """Count the trunks of a point, repeats included."""
        return self.samples_at(point) + self.repeats

    @cached_property
    def search(self) -> Search:
        """What the search may try."""
        return search_of(self.spec)

    def possible(self, name: str) -> tuple[Any, ...]:
        """List the values that a hyperparameter may have: of a range the ends, else all."""
        return self.search.possible(name, self.spec.trunks)

    @property
    def cells(self) -> int:
        """The number of cells, over all points."""
        trained = self.fixed * sum(len(self.grid.cells(point)) for point in self.points)
        return trained + self.cells_untouched

    @property
    def has_untouched(self) -> bool:
        """Whether each variant is a point as its weights come, too.

        Not where all trunks are so anyway (0 epochs), nor where there are no weights.
        """
        grid = self.spec.grid
        are_weights = grid.weights != "none" and all(w.name for w in self.weights.values())
        return grid.untouched and are_weights and self.spec.trunks.epochs > 0

    @property
    def untouched_variants(self) -> tuple[str, ...]:
        """The variants that are points as their weights come: all, or none."""
        return self.spec.grid.variants if self.has_untouched else ()

    @property
    def cells_untouched(self) -> int:
        """The number of cells of untouched nets."""
        return sum(len(self.untouched_tests(variant)) for variant in self.untouched_variants)

    def untouched_tests(self, variant: str) -> list[tuple[int, float]]:
        """List where a variant is tested untouched: test resolution, px, and crop ratio."""
        return (self.untouched_grid or self.grid).untouched_cells(variant)

    @property
    def is_to_be_screened(self) -> bool:
        """Whether points are to be left out, and it is not known yet which."""
        return self.spec.grid.screen < 1 and self.screen is None

    def screened(self, screen: Screen) -> Plan:
        """Return the plan without the points that a screen leaves out."""
        left_out = {one.point for one in screen.left_out}
        grid = replace(
            self.grid,
            tests={p: tests for p, tests in self.grid.tests.items() if p not in left_out},
            crops={at: crops for at, crops in self.grid.crops.items() if at[0] not in left_out},
        )
        return replace(self, grid=grid, screen=screen, untouched_grid=self.grid)

    @property
    def survivors(self) -> int:
        """The number of trunks of a point that are fixed, their repeats not counted."""
        return min(self.spec.fix.survivors, self.samples)

    @property
    def repeats(self) -> int:
        """The number of trunks of a point that repeat survivors, at most."""
        return self.survivors * (self.spec.search.repeat - 1)

    @property
    def fixed(self) -> int:
        """The number of trunks of a point that are fixed, at most."""
        return self.survivors + self.repeats

    def below(self, point: Point) -> Point | None:
        """Return the variant's next smaller train resolution, where trunks start from its best one.

        Returns:
            None where they start from the weights as they come: without ``--cascade``, everywhere.
        """
        if not self.spec.grid.cascade:
            return None
        resolutions = self._train_resolutions.get(point.variant, [])
        place = bisect_left(resolutions, point.train_res)
        if place == 0:
            return None
        return Point(variant=point.variant, train_res=resolutions[place - 1])

    @cached_property
    def _train_resolutions(self) -> Mapping[str, list[int]]:
        """The train resolutions of each variant, px, the smallest first."""
        found: dict[str, list[int]] = {}
        for point in sorted(self.points, key=lambda point: point.train_res):
            found.setdefault(point.variant, []).append(point.train_res)
        return found

    @cached_property
    def cascading(self) -> tuple[Point, ...]:
        """The points where trunks start from those of a smaller train resolution."""
        return tuple(point for point in self.points if self.below(point) is not None)

    @property
    def bases(self) -> tuple[Point, ...]:
        """With ``--cascade`` the points that trunks of larger train resolutions go back to."""
        if not self.spec.grid.cascade:
            return ()
        return tuple(point for point in self.points if self.below(point) is None)

    def epochs_at(self, point: Point) -> int:
        """Count the epochs of a trunk of a point that is not cut, started from what it is to be."""
        return self.epochs_of(self.below(point) is not None)

    def epochs_of(self, has_parent: bool) -> int:
        """Count the epochs of a trunk that is not cut, by whether it starts from another."""
        return self.spec.cascade_epochs if has_parent else self.spec.trunks.epochs

    def rungs_at(self, point: Point) -> tuple[int, ...]:
        """List the epochs at which trunks of a point are scored on val; the last is their end."""
        return self.rungs_to(self.epochs_at(point))

    @property
    def rungs(self) -> tuple[int, ...]:
        """The rungs of a trunk that starts from the weights as they come, and its last epoch."""
        return self.rungs_to(self.spec.trunks.epochs)

    def rungs_to(self, epochs: int) -> tuple[int, ...]:
        """List as :attr:`rungs` those of a trunk that is trained for so many epochs."""
        return rungs_to(epochs, self.grace_epochs, self.spec.halving.reduction)

    @cached_property
    def grace_epochs(self) -> int:
        """The first rung, in epochs; by the steps of the largest batch that is tried."""
        asked = self.spec.halving.grace_epochs
        if asked is not None:
            return asked
        return default_grace_epochs(self.counts["train"], max(self.possible("batch_size")))

    def trunk(
        self,
        point: Point,
        hyper: Hyper,
        recipe: Mapping[str, Any] = MappingProxyType({}),
        repeat: int = 0,
        parent: Parent | None = None,
    ) -> TrunkSpec:
        """Make the spec of a trunk: at a point, with these hyperparameters.

        Args:
            recipe: what else differs from the options, by name.
            repeat: how many trunks of the same have come before; each has seeds of its own.
            parent: the trunk that it starts from; None: from the weights as they come.
        """
        epochs = self.epochs_of(parent is not None)
        options = {**vars(self.spec.trunks), **recipe, "epochs": epochs}
        if not options["epochs"]:
            options["class_weights"] = "none"

        def own(kind: type) -> dict[str, Any]:
            return {f.name: options[f.name] for f in fields(kind) if f.name in options}

        return TrunkSpec(
            variant=point.variant,
            train_res=point.train_res,
            weights=self.weights[point.variant],
            images=self.images_digest,
            recipe=Recipe(**own(Recipe), augmentation=Augmentation(**own(Augmentation))),
            hyper=hyper,
            seed=self.spec.run.seed,
            repeat=repeat,
            parent=parent,
        )

    def untouched_trunk(self, variant: str) -> TrunkSpec:
        """Make the spec of a variant as its weights come: what trains trunks is not in its key."""
        return TrunkSpec(
            variant=variant,
            train_res=variants.get(variant).native_res,
            weights=self.weights[variant],
            images=self.images_digest,
            recipe=Recipe(epochs=0, batch_size=1),
            hyper=Hyper(lr=0.0, weight_decay=0.0, label_smoothing=0.0),
            seed=0,
        )

    def untouched(self) -> list[TrunkSpec]:
        """List the untouched nets of the plan: one a variant, or none."""
        return [self.untouched_trunk(variant) for variant in self.untouched_variants]

    def arms_of(self, trunk: TrunkSpec) -> tuple[str, ...]:
        """List the arms of a trunk's cells: without a classifier, only those that fit one."""
        return UNTOUCHED_ARMS if self.lacks_classifier(trunk) else self.arms_for(trunk.variant)

    def arms_for(self, variant: str) -> tuple[str, ...]:
        """List the arms of a variant's trained trunks: those that change what its nets have."""
        return tuple(arm for arm in self.spec.fix.arms if adapts(arm, variant))

    def lacks_classifier(self, trunk: TrunkSpec) -> bool:
        """Whether a trunk has no classifier of these classes: an untouched net among trained ones.

        With 0 epochs all trunks are untouched, and keep classifiers of these classes.
        """
        return trunk.is_untouched and self.has_untouched

    def transform(
        self, variant: str, test_res: int, crop_pct: float | None = None
    ) -> EvalTransform:
        """Make the transform that images pass before the variant is tested on them.

        Args:
            crop_pct: None: that of the variant's weights.
        """
        asked = self.spec.fix.interpolation
        native = variants.preprocessing(variants.get(variant))
        return EvalTransform(
            test_res=test_res,
            crop_pct=native.crop_pct if crop_pct is None else crop_pct,
            interpolation=native.interpolation if asked == "weights" else asked,
        )

    def val_transforms(self, point: Point) -> tuple[EvalTransform, ...]:
        """List the transforms of val that a trunk is scored with at its rungs.

        One for each test resolution, at the crop ratio of the weights: which trunk is better
        shows there, and a further ratio would cost another pass over val at each of them.
        """
        return tuple(self.transform(point.variant, res) for res in self.grid.tests[point])

    @property
    def metric(self) -> Metric:
        """What val decides by."""
        return self.spec.evaluation.metric

    @property
    def head_class_weights(self) -> tuple[ClassWeights, ...]:
        """The weights of classes that classifiers are fitted with; of several, val picks.

        Those of the trunks' loss, unless asked otherwise.
        """
        trunks = self.spec.trunks
        own = fitted_class_weights(trunks.sampling, trunks.class_weights)
        asked = self.spec.fix.head_class_weights
        return tuple(dict.fromkeys(own if kind == "trunk" else kind for kind in asked))

    @property
    def head_grid(self) -> HeadGrid:
        """The settings with which the classifier of every cell is fitted."""
        fix = self.spec.fix
        return HeadGrid(
            lr=fix.head_lr,
            label_smoothing=fix.head_smoothing,
            weight_decay=fix.head_weight_decay,
            optimizer=fix.head_optimizer,
            epochs=fix.head_epochs,
            patience=fix.head_patience,
            batch_size=fix.head_batch_size,
            metric=self.metric,
            class_weights=self.head_class_weights,
        )

    def prefix(self, variant: str, test_res: int) -> int | None:
        """Count the images whose maps a cell keeps where it streams the rest; None: it does not."""
        images = max(self.counts["train"], self.counts["val"])
        return disk_use.prefix(variant, test_res, self.spec.fix.map_gb, images)

    def streams(self, split: str, variant: str, test_res: int) -> bool:
        """Whether a cell does not keep the maps of all images of a split."""
        most = self.prefix(variant, test_res)
        return most is not None and self.counts[split] > most

    def cell(self, trunk: TrunkSpec, trunk_epochs: int, test_res: int, crop_pct: float) -> Cell:
        """Make the cell of a trunk, trained for so many epochs, at a test resolution and crop."""
        fix, arms = self.spec.fix, self.arms_of(trunk)
        spec = CellSpec(
            trunk=trunk.key,
            transform=self.transform(trunk.variant, test_res, crop_pct),
            arms=arms,
            heads=self.head_grid,
            views=fix.views,
            batch_size=self.spec.trunks.batch_size,
            seed=trunk.training_seed if trunk.repeat else self.spec.run.seed,
            none_in_transform="none" in arms and crop_pct != native_crop(trunk.variant),
            prefix=self.prefix(trunk.variant, test_res),
        )
        return Cell(spec=spec, trunk=trunk, trunk_epochs=trunk_epochs)
