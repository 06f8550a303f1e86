"""Propose the hyperparameters to try next at a point of the grid: Optuna's samplers, purely.

The same seed, point, sample and history give the same proposal: a sweep can be repeated, and one
that was killed is continued as if it had not been.

- ``tpe``: what is learnt at one train resolution serves the others of its variant. Accuracies
  differ by resolution, so that a trial counts by its rank among those of its own train resolution;
  one that runs or waits, by its rungs so far.
- ``random`` and ``qmc`` know no results. The latter is a Sobol sequence, scrambled anew for each
  point of the grid, of which a point's sample n is element n.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweeps.planning.grid import Point
from sweeps.planning.options.space import Choices, Dimension, Interval, SearchSpace, space_size
from sweeps.planning.search import Draw, Search, draw_of, rounded
from trainables.training.recipe import Hyper

STARTUP_TRIALS = 4  # Trials of a variant that are random, before TPE proposes.
ROUNDING = 1e-6  # relative: values are rounded to six significant digits
MOST_TOLD = 1_000  # trials: TPE takes 0.06 s then, and longer in proportion to more of them
BEST_TOLD = 25  # of all, by which TPE models what is good where there are 250 and more
MOST_LISTED = 10_000  # points of a space among which one that was not tried is looked for


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trunk that is or was trained, with its scores so far."""

    point: Point
    hyper: Hyper
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what is searched beside these
    values: Mapping[int, float]  # of the metric on val by epoch, at rungs
    running: bool
    finished: bool  # trained to its last epoch

    @property
    def draw(self) -> Draw:
        """What it was trained with."""
        return Draw(hyper=self.hyper, recipe=self.recipe)


Ranked = tuple[Trial, Mapping[int, float]]  # a trial, and its ranks by epoch


def propose(
    search: Search,
    point: Point,
    history: Sequence[Trial],
    *,
    seed: int,
    sample: int,
    smaller: Sequence[str] = (),
    parent: Draw | None = None,
) -> Draw:
    """Propose the hyperparameters of a trial at ``point``, given all trials before it.

    The first trials at each point are those that were given; if there are none, the first one takes
    what the trunk that it starts from was trained with, or the middle of the ranges. Where a space
    is small, nothing is proposed twice at a point.

    Args:
        history: earlier trials; those of other variants are ignored, but for the first trial.
        sample: the number of the trial among those of its point.
        smaller: variants of which the first trial takes what was best, if one has finished; the
            first that has counts.
        parent: what the trunk that those of the point start from was trained with.
    """
    given = search.tries_at(point)
    if sample < len(given):
        return given[sample]
    own = [trial for trial in history if trial.point == point]
    if not given and not own:
        return parent or _best_of_smaller(point, history, smaller) or search.middle
    values = _sampled(search, point, history, seed=seed, sample=sample)
    proposed = draw_of(values)
    if any(trial.draw == proposed for trial in own):
        left = _untried(search.space, own)
        return left[_seed(seed, point, sample) % len(left)] if left else proposed
    return proposed


def _best_of_smaller(point: Point, history: Sequence[Trial], smaller: Sequence[str]) -> Draw | None:
    """Find what was best of the first variant that has finished a trial, near the resolution."""
    for variant in smaller:
        ended = [t for t in history if t.point.variant == variant and t.finished and t.values]
        if ended:
            res = min(
                {trial.point.train_res for trial in ended},
                key=lambda res: (abs(math.log(res / point.train_res)), res),
            )
            near = [trial for trial in ended if trial.point.train_res == res]
            return max(near, key=lambda trial: trial.values[max(trial.values)]).draw
    return None


def _sampled(
    search: Search, point: Point, history: Sequence[Trial], *, seed: int, sample: int
) -> dict[str, Any]:
    """Have the searcher propose values, by name."""
    if optuna.logging.get_verbosity() != optuna.logging.WARNING:  # It empties all loggers' caches.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = search.space
    trials: list[FrozenTrial] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: BaseSampler
        if search.searcher == "tpe":
            sampler = TPESampler(
                seed=_seed(seed, point.variant, point.train_res, sample),
                n_startup_trials=STARTUP_TRIALS,
                multivariate=True,
                constant_liar=True,
            )
            trials = _told(space, [t for t in history if t.point.variant == point.variant])
        elif search.searcher == "random":
            sampler = RandomSampler(seed=_seed(seed, point.variant, point.train_res, sample))
        else:
            sampler = _SobolElement(_seed(seed, point.variant, point.train_res), sample)
            # The sampler takes its axes from a trial that is over.
            trials = [_frozen(_middle_trial(search, point), {0: 0.5}, space, _distributions(space))]
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(trials)
    proposal = study.ask(_distributions(space)).params
    return {name: _decoded(proposal[name], dimension) for name, dimension in space.items()}


class _SobolElement(QMCSampler):
    """Optuna's sampler, at a given element of its sequence.

    It counts elements in its study, and a study is made anew for each proposal.
    """

    def __init__(self, seed: int, element: int):
        super().__init__(qmc_type="sobol", scramble=True, seed=seed)
        self._element = element

    def _find_sample_id(self, study: optuna.Study, search_space: Mapping[str, Any]) -> int:
        return self._element


def _middle_trial(search: Search, point: Point) -> Trial:
    middle = search.middle
    return Trial(
        point=point,
        hyper=middle.hyper,
        recipe=middle.recipe,
        values={0: 0.0},
        running=False,
        finished=True,
    )


def _told(space: SearchSpace, trials: Sequence[Trial]) -> list[FrozenTrial]:
    """Convert trials to Optuna's, but for those of choices that are none of the space's."""
    distributions = _distributions(space)
    choices = {name: d.values for name, d in space.items() if isinstance(d, Choices)}
    known = [
        (trial, ranks)
        for trial, ranks in zip(trials, _ranks(trials), strict=True)
        if all(trial.draw.values[name] in values for name, values in choices.items())
    ]
    return [_frozen(trial, ranks, space, distributions) for trial, ranks in _most_telling(known)]


def _most_telling(ranked: Sequence[Ranked]) -> Sequence[Ranked]:
    """Choose what TPE is told of many trials, so that a proposal takes no longer for more of them.

    Its model of what is good is of the best, which all are told. That of all else weighs a trial
    the less, the longer ago it began: half of what is told of these began last, half are spread
    over those before.
    """
    if len(ranked) <= MOST_TOLD:
        return ranked
    best = sorted(range(len(ranked)), key=lambda number: _badness(ranked[number]))[:BEST_TOLD]
    others = sorted(set(range(len(ranked))) - set(best))
    late = (MOST_TOLD - BEST_TOLD) // 2
    before, early = others[:-late], MOST_TOLD - BEST_TOLD - late
    spread = [before[at * len(before) // early] for at in range(early)]
    return [ranked[number] for number in sorted([*best, *spread, *others[-late:]])]


def _badness(ranked: Ranked) -> tuple[int, int, float]:
    """Order trials as TPE does: finished ones by rank, then by how far they came, then the rest."""
    trial, ranks = ranked
    if trial.finished:
        return 0, 0, -ranks[max(ranks)]
    return (1, -max(ranks), -ranks[max(ranks)]) if ranks else (2, 0, 0.0)


def _frozen(
    trial: Trial,
    ranks: Mapping[int, float],
    space: SearchSpace,
    distributions: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    """Convert a trial to Optuna's: one that is not trained to its end is pruned at its last rung.

    One that runs and was not scored yet is taken to be bad, so that others keep away from it.

    Args:
        ranks: of the trial, by epoch.
    """
    values, distributions = trial.draw.values, dict(distributions)
    params = {name: _encoded(values[name], dimension) for name, dimension in space.items()}
    told = partial(
        _Told,
        number=-1,
        trial_id=-1,
        datetime_start=_ANY_TIME,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={},
    )
    if trial.running and not ranks:
        return told(
            state=TrialState.RUNNING, value=None, datetime_complete=None, intermediate_values={}
        )
    ranks = ranks or {0: 0.0}
    return told(
        state=TrialState.COMPLETE if trial.finished else TrialState.PRUNED,
        value=ranks[max(ranks)] if trial.finished else None,
        datetime_complete=_ANY_TIME,
        intermediate_values=dict(ranks),
    )


class _Told(FrozenTrial):
    """A trial that a study is told, and checks then.

    The study takes a deep copy of it, which was a third of the time of a proposal; nothing of it is
    changed but its number, so that a shallow one serves.
    """

    def __deepcopy__(self, _: dict[int, Any]) -> _Told:
        return copy(self)


_ANY_TIME = datetime(2000, 1, 1)  # No sampler looks at it.


def _ranks(trials: Sequence[Trial]) -> list[dict[int, float]]:
    """Rank each trial at each of its epochs among those of its point, from 0 to 1.

    A rank is the share of the trials measured at that epoch which are worse. Ties, the trial itself
    among them, count half, so that the middle is 0.5.
    """
    measured: dict[tuple[Point, int], list[float]] = defaultdict(list)
    for trial in trials:
        for epoch, value in trial.values.items():
            measured[trial.point, epoch].append(value)
    for values in measured.values():
        values.sort()

    def rank(point: Point, epoch: int, value: float) -> float:
        values = measured[point, epoch]
        return (bisect_left(values, value) + bisect_right(values, value)) / 2 / len(values)

    return [{e: rank(t.point, e, v) for e, v in t.values.items()} for t in trials]


# --- Optuna's values ----------------------------------------------------------------------------


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    return {name: _distribution(dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Make Optuna's range; of choices it is told the places in the list, whatever their types."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(*_bounds(dimension), log=dimension.log)


def _encoded(value: Any, dimension: Dimension) -> Any:
    if isinstance(dimension, Choices):
        return dimension.values.index(value)
    low, high = _bounds(dimension)
    return min(max(value, low), high)


def _decoded(value: Any, dimension: Dimension) -> Any:
    if isinstance(dimension, Choices):
        return dimension.values[value]
    low, high = _bounds(dimension)
    return min(max(rounded(value, dimension), low), high)


def _bounds(dimension: Interval) -> tuple[float, float]:
    """Return the ends of a range; one without two numbers of six digits is its low end.

    In so narrow a range the sampler's own arithmetic has no digits left.
    """
    low, high = dimension.low, dimension.high
    return (low, high) if high - low > ROUNDING * high else (low, low)


def _untried(space: SearchSpace, tried: Sequence[Trial]) -> list[Draw]:
    """List the draws of a small space that no trial has; of a large one none."""
    if space_size(space) > MOST_LISTED:
        return []
    draws = [trial.draw for trial in tried]
    return [draw for draw in map(draw_of, _points(space)) if draw not in draws]


def _points(space: SearchSpace) -> Iterator[dict[str, Any]]:
    axes = [_values(dimension) for dimension in space.values()]
    for values in itertools.product(*axes):
        yield dict(zip(space, values, strict=True))


def _values(dimension: Dimension) -> Sequence[Any]:
    if isinstance(dimension, Choices):
        return dimension.values
    if dimension.integer:
        return range(int(dimension.low), int(dimension.high) + 1)
    return [dimension.low]


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
