"""Propose the hyperparameters to try next at a point of the grid: Optuna's TPE as a pure function.

What is learnt at one train resolution serves the others of its variant. Accuracies differ by
resolution, so that a trial counts by its rank among those of its own train resolution; one that
runs or waits, by its rungs so far. The same seed, point, sample and history give the same proposal:
a sweep can be repeated, and one that was killed is continued as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.planning.grid import Point
from sweeps.planning.options.groups import TrunkOptions
from trainables.training.recipe import Hyper

STARTUP_TRIALS = 4  # Trials of a variant that are random, before TPE proposes.
ROUNDING = 1e-6  # relative: values are rounded to six significant digits
NAMES = ("lr", "weight_decay", "label_smoothing")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trunk that is or was trained, with its scores so far."""

    point: Point
    hyper: Hyper
    values: Mapping[int, float]  # of the metric on val by epoch, at rungs
    running: bool
    finished: bool  # trained to its last epoch


def search_space(options: TrunkOptions) -> dict[str, BaseDistribution]:
    """Make the range of each hyperparameter; lr and weight decay are on a log scale."""
    return {
        "lr": FloatDistribution(*_bounds("lr", options), log=True),
        "weight_decay": FloatDistribution(*_bounds("weight_decay", options), log=True),
        "label_smoothing": FloatDistribution(*_bounds("label_smoothing", options)),
    }


def middle_of_ranges(options: TrunkOptions) -> Hyper:
    """Return the middle of each range: the geometric mean where it is on a log scale."""
    low, high = options.label_smoothing
    return _rounded(
        {
            "lr": math.sqrt(options.lr[0] * options.lr[1]),
            "weight_decay": math.sqrt(options.weight_decay[0] * options.weight_decay[1]),
            "label_smoothing": (low + high) / 2,
        },
        options,
    )


def propose(
    options: TrunkOptions, point: Point, history: Sequence[Trial], *, seed: int, sample: int
) -> Hyper:
    """Propose the hyperparameters of a trial at ``point``, given all trials before it.

    The first trial at each point takes the middle of the ranges.

    Args:
        history: earlier trials; those of other variants are ignored.
        sample: the number of the trial among those of its point.
    """
    if not any(t.point == point for t in history):
        return middle_of_ranges(options)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=_seed(seed, point.variant, point.train_res, sample),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    own = [t for t in history if t.point.variant == point.variant]
    ranks = _ranks(own)
    study.add_trials([_frozen(t, r, options) for t, r in zip(own, ranks, strict=True)])
    proposal = study.ask(search_space(options))
    return _rounded(proposal.params, options)


def _frozen(trial: Trial, ranks: Mapping[int, float], options: TrunkOptions) -> FrozenTrial:
    """Convert a trial to Optuna's: one that is not trained to its end is pruned at its last rung.

    One that runs and was not scored yet is taken to be bad, so that others keep away from it.

    Args:
        ranks: of the trial, by epoch.
    """
    params = {name: _within(name, getattr(trial.hyper, name), options) for name in NAMES}
    if trial.running and not ranks:
        return create_trial(
            state=TrialState.RUNNING, params=params, distributions=search_space(options)
        )
    ranks = ranks or {0: 0.0}
    return create_trial(
        state=TrialState.COMPLETE if trial.finished else TrialState.PRUNED,
        value=ranks[max(ranks)] if trial.finished else None,
        params=params,
        distributions=search_space(options),
        intermediate_values=dict(ranks),
    )


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


def _rounded(values: Mapping[str, float], options: TrunkOptions) -> Hyper:
    """Round to six significant digits, as good and readable in a table, within the ranges."""
    return Hyper(**{n: _within(n, float(f"{values[n]:.6g}"), options) for n in NAMES})


def _within(name: str, value: float, options: TrunkOptions) -> float:
    """Move a value into its range: a narrow range may hold no number of six digits."""
    low, high = _bounds(name, options)
    return min(max(value, low), high)


def _bounds(name: str, options: TrunkOptions) -> tuple[float, float]:
    """Return the range of a hyperparameter; one without two numbers of six digits is its low end.

    In so narrow a range the sampler's own arithmetic has no digits left.
    """
    low, high = map(float, getattr(options, name))
    return (low, high) if high - low > ROUNDING * high else (low, low)


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
