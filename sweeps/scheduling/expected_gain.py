"""Expect what more training of a trunk is worth: its expected improvement on the best. Pure.

Expected improvement is that of Jones et al. (Journal of Global Optimization 13, 1998). What a trunk
will come to is a guess with an error, a normal one of the logarithm of its share of wrong answers.
That falls about as fast as a power of the epochs, and, from point to point, of the cost of an
image; what the trunks so far have shown corrects both powers, and the guess of a point's next.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

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

    What is new is added to sums: a guess takes as long after ten thousand trunks as after one.

    Args:
        costs: of an image, by point; in any unit.
        epochs: of a trunk that is not cut, by point.
    """

    def __init__(self, costs: Mapping[Point, float], epochs: Mapping[Point, int]):
        self._epochs = epochs
        self._log_costs = {point: math.log(max(1e-12, cost)) for point, cost in costs.items()}
        self._shown: dict[str, Shown] = {}  # by the key of the trunk
        self._steps = _Products()  # of the e-folds of epochs between two scores, and the error's
        self._of_point: dict[Point, _Ends] = defaultdict(_Ends)
        # Of the costs of points with their trunks' mean errors, and with the folds still to go.
        self._errors, self._folds = _Products(), _Products()

    def show(self, key: str, shown: Shown) -> None:
        """Take what a trunk has shown so far, in place of what it had shown before."""
        point, own = shown.point, self._of_point[shown.point]
        self._count_point(point, own, -1)
        if (before := self._shown.get(key)) is not None:
            self._count(own, before, -1)
        self._shown[key] = Shown(point=point, values=dict(shown.values))
        self._count(own, shown, 1)
        self._count_point(point, own, 1)

    def _count(self, own: _Ends, shown: Shown, sign: int) -> None:
        for folds, fell in _steps(shown):
            self._steps.add(folds, fell, sign)
        log_error, folds = self._end(shown)
        own.trunks += sign
        own.log_errors += sign * log_error
        own.folds += sign * folds

    def _count_point(self, point: Point, own: _Ends, sign: int) -> None:
        if own.trunks:
            x = self._log_costs[point]
            self._errors.add(x, own.log_errors / own.trunks, sign)
            self._folds.add(x, own.folds / own.trunks, sign)

    def _end(self, shown: Shown) -> tuple[float, float]:
        """Return the logarithm of a trunk's last error, and the e-folds of epochs still to go."""
        epoch = max(shown.values)
        folds = math.log(max(1.0, self._epochs[shown.point] / max(1, epoch)))
        return _log_error(shown.values[epoch]), folds

    @property
    def _epochs_power(self) -> float:
        steps = self._steps
        return _power(steps.xx, steps.xy, EPOCHS_POWER, EPOCHS_POWER_SD, CURVE_SD)

    def trunk(self, shown: Shown) -> Guess:
        """Guess what a trunk comes to, by the last of what it has shown."""
        log_error, folds = self._end(shown)
        mean = log_error - self._epochs_power * folds
        return Guess(mean=mean, sd=CURVE_SD * math.sqrt(folds))

    def next_trunk(self, point: Point) -> Guess:
        """Guess what the next trunk of a point comes to, which has not begun."""
        mean, var = self._by_cost(point)
        own = self._of_point.get(point)
        if own is not None and own.trunks:
            # Of its trunks the mean, as if one more had shown what is expected of any: what they
            # have come to weighs by how sure it is.
            noise = SAMPLE_SD**2 / own.trunks
            weight = var / (var + noise)
            came_to = (own.log_errors - self._epochs_power * own.folds) / own.trunks
            mean, var = weight * came_to + (1 - weight) * mean, weight * noise
        return Guess(mean=mean, sd=math.sqrt(var + SAMPLE_SD**2), sample_sd=SAMPLE_SD)

    def _by_cost(self, point: Point) -> tuple[float, float]:
        """Guess what a point comes to by its cost: mean and variance.

        The level and the power of costs are fitted to the means of points, by least squares.
        """
        errors, folds, points = self._errors, self._folds, self._errors.count
        if not points:
            away = self._log_costs[point]
            var = POINT_SD**2 + 1.0 + (COST_POWER_SD * away) ** 2
            return math.log(0.5) - COST_POWER * away, var
        centre, spread = errors.x / points, math.hypot(POINT_SD, SAMPLE_SD)
        level = (errors.y - self._epochs_power * folds.y) / points
        together = errors.xy - self._epochs_power * folds.xy - points * centre * level
        apart = max(0.0, errors.xx - points * centre**2)
        power = _power(apart, -together, COST_POWER, COST_POWER_SD, spread)
        away = self._log_costs[point] - centre
        var = POINT_SD**2 + spread**2 / points + (COST_POWER_SD * away) ** 2
        return level - power * away, var


@dataclass
class _Ends:
    """Sums over the trunks of a point: of their last errors, and of what is still to go."""

    trunks: int = 0
    log_errors: float = 0.0
    folds: float = 0.0


@dataclass
class _Products:
    """Sums over pairs of numbers, from which a line through them is fitted."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float, sign: int) -> None:
        """Add a pair, or take one out."""
        self.count += sign
        self.x += sign * x
        self.y += sign * y
        self.xx += sign * x * x
        self.xy += sign * x * y


def _normal_cdf(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def _log_error(value: float) -> float:
    return math.log(max(LEAST_ERROR, 1 - value))


def _steps(shown: Shown) -> Iterator[tuple[float, float]]:
    """List the e-folds of epochs between two scores of a trunk, and how far the error fell."""
    epochs = sorted(epoch for epoch in shown.values if epoch > 0)
    for before, after in pairwise(epochs):
        fell = _log_error(shown.values[before]) - _log_error(shown.values[after])
        yield math.log(after / before), fell


def _power(xx: float, xy: float, expected: float, expected_sd: float, noise_sd: float) -> float:
    """Fit how far the logarithm of an error falls with that of what it depends on.

    The mean of the posterior of a slope through the origin, with a normal prior and errors.

    Args:
        xx, xy: sums of products of how far what it depends on goes, and the error falls.
    """
    weight = 1 / expected_sd**2
    return (weight * expected + xy / noise_sd**2) / (weight + xx / noise_sd**2)
