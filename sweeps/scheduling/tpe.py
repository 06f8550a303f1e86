"""Which hyperparameters to try next at a point of the grid: Optuna's TPE, as a pure function.

What is learnt at one train resolution serves the others of its variant. Their accuracies differ by
resolution, so a trial counts by its rank among those of its own train resolution, not by its
accuracy. The same seed, index and history give the same proposal, whatever happened in between:
that is what makes a sweep repeatable, and a killed one continue as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.planning.grid import Point
from sweeps.planning.spec import TrunkOptions
from trainables.training.recipe import Hyper

STARTUP_TRIALS = 4  # trials of a variant before TPE has something to say; random until then
NAMES = ("lr", "weight_decay", "label_smoothing")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trunk that was tried, as far as it came."""

    point: Point
    hyper: Hyper
    top1: Mapping[int, float]  # val, by epoch, at rungs
    running: bool
    finished: bool  # trained to its last epoch


def search_space(options: TrunkOptions) -> dict[str, BaseDistribution]:
    """The range of each hyperparameter; lr and weight decay on a log scale."""
    return {
        "lr": FloatDistribution(*options.lr, log=True),
        "weight_decay": FloatDistribution(*options.weight_decay, log=True),
        "label_smoothing": FloatDistribution(*options.label_smoothing),
    }


def middle_of_ranges(options: TrunkOptions) -> Hyper:
    """The middle of each range: geometric where it is on a log scale."""
    low, high = options.label_smoothing
    return Hyper(
        lr=_round(math.sqrt(options.lr[0] * options.lr[1])),
        weight_decay=_round(math.sqrt(options.weight_decay[0] * options.weight_decay[1])),
        label_smoothing=_round((low + high) / 2),
    )


def propose(
    options: TrunkOptions, point: Point, history: Sequence[Trial], *, seed: int, index: int
) -> Hyper:
    """Hyperparameters of trial ``index`` at ``point``, given all trials before it.

    The first at each point is the middle of the ranges; ``history`` of other variants is ignored.
    """
    if not any(t.point == point for t in history):
        return middle_of_ranges(options)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=_seed(seed, point.variant, index),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    own = [t for t in history if t.point.variant == point.variant]
    study.add_trials([_frozen(t, own, options) for t in own])
    asked = study.ask(search_space(options))
    return Hyper(**{name: _round(asked.params[name]) for name in NAMES})


def _frozen(trial: Trial, all_trials: Sequence[Trial], options: TrunkOptions) -> FrozenTrial:
    """A trial as Optuna knows it: cut ones are pruned, at their last rung."""
    params = {name: getattr(trial.hyper, name) for name in NAMES}
    if trial.running:
        return create_trial(
            state=TrialState.RUNNING, params=params, distributions=search_space(options)
        )
    ranks = {epoch: _rank(trial, epoch, all_trials) for epoch in trial.top1} or {0: 0.0}
    return create_trial(
        state=TrialState.COMPLETE if trial.finished else TrialState.PRUNED,
        value=ranks[max(ranks)] if trial.finished else None,
        params=params,
        distributions=search_space(options),
        intermediate_values=ranks,
    )


def _rank(trial: Trial, epoch: int, all_trials: Sequence[Trial]) -> float:
    """Share of the trials of its train resolution, measured at ``epoch``, that it is as good as.

    Ties count half, so that the middle is 0.5.
    """
    own = trial.top1[epoch]
    others = [t.top1[epoch] for t in all_trials if t.point == trial.point and epoch in t.top1]
    below = sum(o < own for o in others)
    ties = sum(o == own for o in others)
    return (below + ties / 2) / len(others)


def _round(value: float) -> float:
    """Six significant digits: as good, and readable in a table."""
    return float(f"{value:.6g}")


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
