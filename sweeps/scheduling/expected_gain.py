"""Expect what more training of a trunk is worth: its expected improvement on the best. Pure.

Expected improvement is that of Jones et al. (Journal of Global Optimization 13, 1998). What a trunk
will come to is a guess with an error, a normal one of the logarithm of its share of wrong answers.
That falls about as fast as a power of the epochs, and, from point to point, of the cost of an
image; what the trunks so far have shown corrects both powers, and the guess of a point's next.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from sweeps.planning.grid import Point

LEAST_ERROR = 0.002  # a share; better ones are not told apart
# Guesses from before anything is known, and how far they may be wrong (standard deviations), all of
# natural logarithms of errors.
EPOCHS_POWER, EPOCHS_POWER_SD = 0.3, 0.2  # the error falls with epochs ** -power
COST_POWER, COST_POWER_SD = 0.1, 0.1  # and with cost ** -power
POINT_SD = 0.15  # of a point, from what its cost says
SAMPLE_SD = 0.2  # of a point's trunks, by their hyperparameters
CURVE_SD = 0.25  # of a curve, for each e-fold of epochs that it is still to go


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a trunk has shown so far."""

    point: Point
    values: Mapping[int, float]
    """What val decides by, as shares, by epoch; at least one."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a trunk will come to at its last epoch: the logarithm of its error."""

    mean: float
    sd: float
    sample_sd: float = 0.0
    """The part of ``sd`` in which further trunks of the point would differ."""

    def improvement(self, best: float, tries: float = 1.0) -> float:
        """Expect by how much the share of right answers rises above the best, where it does.

        Args:
            best: the share that is to be beaten.
            tries: trunks of the point of which the best counts; below 1: the chance that there
                will be one.
        """
        if tries < 1:
            return tries * self.improvement(best)
        error = _log_error(best)
        # The best of so many normal draws (Blom 1958), about which it is the surer the more.
        ahead = NormalDist().inv_cdf((tries - 0.375) / (tries + 0.25)) * self.sample_sd
        common = self.sd**2 - self.sample_sd**2
        sd = max(1e-6, math.sqrt(common + self.sample_sd**2 / (1 + math.log(tries))))
        return self._above(error, self.mean - ahead, sd)

    @staticmethod
    def _above(error: float, mean: float, sd: float) -> float:
        z = (error - mean) / sd
        below = math.exp(mean + sd * sd / 2) * _normal_cdf(z - sd)
        return max(0.0, math.exp(error) * _normal_cdf(z) - below)


class Outlook:
    """Guesses, from what the trunks of a sweep have shown.

    Args:
        costs: of an image, by point; in any unit.
        epochs: of a trunk that is not cut, by point.
    """

    def __init__(
        self, costs: Mapping[Point, float], epochs: Mapping[Point, int], shown: Sequence[Shown]
    ):
        self._epochs = epochs
        self._log_costs = {point: math.log(max(1e-12, cost)) for point, cost in costs.items()}
        self._epochs_power = _power(_steps(shown), EPOCHS_POWER, EPOCHS_POWER_SD, CURVE_SD)
        ends = defaultdict(list)
        for trunk in shown:
            ends[trunk.point].append(self.trunk(trunk))
        # Of a point's trunks the mean, as if one more had shown what is expected of any.
        self._ends = {point: [g.mean for g in guesses] for point, guesses in ends.items()}
        self._fit_costs()

    def _fit_costs(self) -> None:
        """Fit the level and the power of costs to the means of points, by least squares."""
        self._centre, self._level, self._cost_power = 0.0, math.log(0.5), COST_POWER
        self._level_sd = 1.0
        if not self._ends:
            return
        x = np.array([self._log_costs[point] for point in self._ends])
        y = np.array([float(np.mean(values)) for values in self._ends.values()])
        self._centre = float(x.mean())
        pairs = [(float(a), float(b)) for a, b in zip(x - self._centre, y.mean() - y, strict=True)]
        spread = math.hypot(POINT_SD, SAMPLE_SD)
        self._cost_power = _power(pairs, COST_POWER, COST_POWER_SD, spread)
        self._level, self._level_sd = float(y.mean()), spread / math.sqrt(len(y))

    def trunk(self, shown: Shown) -> Guess:
        """Guess what a trunk comes to, by the last of what it has shown."""
        epoch = max(shown.values)
        folds = math.log(max(1.0, self._epochs[shown.point] / max(1, epoch)))
        mean = _log_error(shown.values[epoch]) - self._epochs_power * folds
        return Guess(mean=mean, sd=CURVE_SD * math.sqrt(folds))

    def next_trunk(self, point: Point) -> Guess:
        """Guess what the next trunk of a point comes to, which has not begun."""
        away = self._log_costs[point] - self._centre
        mean = self._level - self._cost_power * away
        var = POINT_SD**2 + self._level_sd**2 + (COST_POWER_SD * away) ** 2
        own = self._ends.get(point, [])
        if own:  # what its trunks have come to weighs by how sure it is
            noise = SAMPLE_SD**2 / len(own)
            weight = var / (var + noise)
            mean, var = weight * float(np.mean(own)) + (1 - weight) * mean, weight * noise
        return Guess(mean=mean, sd=math.sqrt(var + SAMPLE_SD**2), sample_sd=SAMPLE_SD)


def _normal_cdf(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def _log_error(value: float) -> float:
    return math.log(max(LEAST_ERROR, 1 - value))


def _steps(shown: Iterable[Shown]) -> list[tuple[float, float]]:
    """List the e-folds of epochs between two scores of a trunk, and how far the error fell."""
    steps = []
    for trunk in shown:
        epochs = sorted(epoch for epoch in trunk.values if epoch > 0)
        for before, after in pairwise(epochs):
            fell = _log_error(trunk.values[before]) - _log_error(trunk.values[after])
            steps.append((math.log(after / before), fell))
    return steps


def _power(
    steps: Sequence[tuple[float, float]], expected: float, expected_sd: float, noise_sd: float
) -> float:
    """Fit how far the logarithm of an error falls with that of what it depends on.

    The mean of the posterior of a slope through the origin, with a normal prior and errors.
    """
    weight = 1 / expected_sd**2
    total, slope = weight, weight * expected
    for folds, fell in steps:
        total += folds**2 / noise_sd**2
        slope += folds * fell / noise_sd**2
    return slope / total
