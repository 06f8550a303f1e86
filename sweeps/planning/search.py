"""What the search of a sweep may try, and the draws of hyperparameters that come of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from sweeps.planning.grid import Point
from sweeps.planning.options.groups import TrunkOptions
from sweeps.planning.options.hyperparameters import hyperparameters
from sweeps.planning.options.search_options import Searcher
from sweeps.planning.options.space import (
    PLAIN_LR,
    Interval,
    SearchSpace,
    search_space,
    value_of_setting_in_words,
)
from sweeps.planning.options.touched import names_of
from sweeps.planning.options.tries import BINDING, Try
from sweeps.planning.spec import SweepSpec
from trainables.training.recipe import Hyper

if TYPE_CHECKING:  # it imports torch, and the checks of options take what is here
    from trainables.training.trunk import TrunkSpec

NAMES_OF_HYPER = tuple(f.name for f in fields(Hyper))
# Learning rates that docs/training.md found to suit trunks of few steps, and frozen batch norms.
FEW_STEPS, FEW_STEPS_LR = 200, (1e-3, 4e-3)
FROZEN_NORMS_LR = (1e-4, 1e-3)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One draw of the hyperparameters: what trunks of a point differ in."""

    hyper: Hyper
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What the search varies of the recipe, by name."""

    @property
    def values(self) -> Mapping[str, Any]:
        """All values by name."""
        return {**vars(self.hyper), **self.recipe}


def draw_of(values: Mapping[str, Any]) -> Draw:
    """Make a draw of values by name; lists become pairs."""
    taken: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
    }
    hyper = Hyper(**{name: taken.pop(name) for name in NAMES_OF_HYPER})
    return Draw(hyper=hyper, recipe=taken)


def settings_of(trunk: TrunkSpec) -> dict[str, Any]:
    """List all hyperparameters that a trunk is trained with, by name, in their order."""
    found = {**vars(trunk.hyper), **vars(trunk.recipe.augmentation), **vars(trunk.recipe)}
    return {name: found[name] for name in hyperparameters()}


@dataclass(frozen=True, kw_only=True)
class Search:
    """The space, how it is searched, and the points of it that are tried first."""

    space: SearchSpace
    searcher: Searcher = "tpe"
    tries: Sequence[Try] = ()

    @property
    def varied(self) -> tuple[str, ...]:
        """What differs between trunks, by name: the hyperparameters with more than one value."""
        return tuple(name for name, dimension in self.space.items() if dimension.size > 1)

    @property
    def of_recipe(self) -> tuple[str, ...]:
        """What is searched beside the hyperparameters that always are, by name."""
        return tuple(name for name in self.space if name not in NAMES_OF_HYPER)

    def possible(self, name: str, trunks: TrunkOptions) -> tuple[Any, ...]:
        """List the values that an option of trunks may have: of a range the ends, else all."""
        dimension = self.space.get(name)
        return (getattr(trunks, name),) if dimension is None else dimension.extremes

    def draw_of(self, trunk: TrunkSpec) -> Draw:
        """Return the draw that a trunk of the sweep was made by."""
        settings = settings_of(trunk)
        return Draw(hyper=trunk.hyper, recipe={name: settings[name] for name in self.of_recipe})

    def tries_at(self, point: Point) -> list[Draw]:
        """List the points of the space that are tried first at a point of the grid, in order.

        What one does not name is in the middle of its range; what all trunks share is left out.
        """
        bound = {"variant": point.variant, "train_res": point.train_res}
        middle = self.middle.values
        return [
            draw_of({**middle, **{n: v for n, v in given.items() if n in self.space}})
            for given in self.tries
            if all(given[name] == bound[name] for name in BINDING if name in given)
        ]

    @property
    def middle(self) -> Draw:
        """The middle of each range, the geometric mean on a log scale; the first of choices."""
        return draw_of(
            {
                name: middle_of(dimension) if isinstance(dimension, Interval) else
                dimension.values[0]
                for name, dimension in self.space.items()
            }
        )  # fmt: skip

    @property
    def in_words(self) -> str:
        """The searcher, and what it searches."""
        varied = [f"{_name(name)} {self.space[name]}" for name in self.varied]
        if not varied:
            return "nothing is varied"
        words = f"{self.searcher} over {', '.join(varied)}"
        return f"{words}; first {len(self.tries)} given point(s)" if self.tries else words


def middle_of(dimension: Interval) -> float:
    """Return the middle of a range, rounded as proposals are."""
    low, high = dimension.low, dimension.high
    return rounded(math.sqrt(low * high) if dimension.log else (low + high) / 2, dimension)


def rounded(value: float, dimension: Interval) -> float:
    """Round to six significant digits, as good and readable in a table, within the range."""
    if dimension.integer:
        return int(min(max(round(value), dimension.low), dimension.high))
    return min(max(float(f"{value:.6g}"), dimension.low), dimension.high)


def values_in_words(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Write values of hyperparameters: "lr 0.002, optimizer sgd"."""
    return ", ".join(f"{_name(name)} {value_of_setting_in_words(values[name])}" for name in names)


def _name(name: str) -> str:
    return name.replace("_", " ")


def search_of(spec: SweepSpec) -> Search:
    """Make the search that a spec asks for."""
    return Search(
        space=search_space(spec.trunks, spec.search.space),
        searcher=spec.search.searcher,
        tries=spec.search.try_ or (),
    )


def with_learning_rates(spec: SweepSpec, train_images: int) -> SweepSpec:
    """Settle the range of learning rates that is searched, where none is given.

    Batch norms that follow each batch cost a pretrained net what it knew of its own statistics,
    and low rates do not make that good in few steps. Frozen ones spare that, and do not rescale
    what large steps blow up (docs/training.md).
    """
    if spec.trunks.lr is not None:
        return spec
    lr = PLAIN_LR
    if rates_follow_images(spec):
        if spec.trunks.freeze_batch_norm:
            lr = FROZEN_NORMS_LR
        elif wants_high_rates(spec, train_images):
            lr = FEW_STEPS_LR
    return replace(spec, trunks=replace(spec.trunks, lr=lr))


def rates_follow_images(spec: SweepSpec) -> bool:
    """Say whether the range of learning rates that is searched is found once images are known."""
    is_given = spec.trunks.lr is not None or "lr" in (spec.search.space or {})
    return not is_given and spec.trunks.epochs > 0


def wants_high_rates(spec: SweepSpec, train_images: int) -> bool:
    """Say whether trunks whose batch norms follow each batch take few steps of AdamW.

    Of other nets, frozen norms and SGD it is not known.
    """
    is_adamw = "adamw" in search_of(spec).possible("optimizer", spec.trunks)
    return norms_follow(spec) and is_adamw and 0 < steps_of(spec, train_images) <= FEW_STEPS


def norms_follow(spec: SweepSpec) -> bool:
    """Say whether batch norms of pretrained nets take the statistics of each batch in training."""
    have_any = any(names_of(variant).has_statistics for variant in spec.grid.variants)
    frozen = search_of(spec).possible("freeze_batch_norm", spec.trunks)
    return have_any and spec.grid.weights != "none" and not any(frozen)


def steps_of(spec: SweepSpec, train_images: int) -> int:
    """Count the steps of a trunk that is trained to its end, of the largest batches."""
    batch_size = int(max(search_of(spec).possible("batch_size", spec.trunks)))
    return spec.trunks.epochs * max(1, train_images // batch_size)
