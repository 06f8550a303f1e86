"""Guesses of what trunks come to, against draws from the model that they assume."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.grid import Point
from sweeps.scheduling.expected_gain import EPOCHS_POWER, Guess, Outlook, Shown

POINTS = [Point(variant="b0", train_res=32 * n) for n in (1, 2, 3, 4)]
COSTS = {point: float(2**n) for n, point in enumerate(POINTS)}


@pytest.mark.parametrize("best", [0.25, 0.7, 0.9, 0.99])
@pytest.mark.parametrize(("mean", "sd"), [(-1.0, 0.3), (-2.5, 0.1), (-0.5, 0.8)])
def test_the_improvement_is_that_of_many_draws(best: float, mean: float, sd: float) -> None:
    draws = np.exp(np.random.default_rng(0).normal(mean, sd, 400_000))
    improved = np.maximum(0.0, (1 - best) - draws).mean()
    guess = Guess(mean=mean, sd=sd)
    assert guess.improvement(best) == pytest.approx(float(improved), abs=5e-4)


@pytest.mark.parametrize("tries", [1, 2, 4, 9])
def test_of_several_trunks_the_best_counts(tries: int) -> None:
    """Half of the variance is the point's own, and half by hyperparameters."""
    rng = np.random.default_rng(1)
    own = rng.normal(0, 0.2, (100_000, 1))
    draws = np.exp(-1.5 + own + rng.normal(0, 0.2, (100_000, tries)))
    improved = np.maximum(0.0, 0.2 - draws.min(axis=1)).mean()
    guess = Guess(mean=-1.5, sd=math.hypot(0.2, 0.2), sample_sd=0.2)
    assert guess.improvement(0.8, tries) == pytest.approx(float(improved), rel=0.15)


@settings(deadline=None)  # no second is counted
@given(best=st.floats(0, 1), mean=st.floats(-6, 0), sd=st.floats(0, 2), tries=st.floats(0.01, 64))
def test_more_tries_and_a_worse_best_never_promise_less(
    best: float, mean: float, sd: float, tries: float
) -> None:
    guess = Guess(mean=mean, sd=sd, sample_sd=sd / 2)
    gain = guess.improvement(best, tries)
    assert 0 <= gain <= guess.improvement(best, 2 * tries) + 0.02 * sd + 1e-9
    assert gain <= guess.improvement(best / 2, tries) + 1e-9


def test_curves_that_were_seen_correct_how_fast_errors_fall() -> None:
    """Errors that fall as the square root of the epochs, and such that do not fall at all."""
    for power in (0.5, 0.0):
        shown = [
            Shown(point=POINTS[0], values={e: 1 - 0.6 * e**-power for e in (1, 3, 9)})
            for _ in range(40)
        ]
        outlook = Outlook(COSTS, dict.fromkeys(COSTS, 27), shown)
        mean = outlook.trunk(Shown(point=POINTS[0], values={3: 0.5})).mean
        assert mean == pytest.approx(math.log(0.5) - power * math.log(9), abs=0.12)
    unknown = Outlook(COSTS, dict.fromkeys(COSTS, 27), [])
    mean = unknown.trunk(Shown(point=POINTS[0], values={3: 0.5})).mean
    assert mean == pytest.approx(math.log(0.5) - EPOCHS_POWER * math.log(9))


@pytest.mark.parametrize("power", [0.3, -0.2])
def test_points_that_were_seen_say_what_dearer_ones_are_worth(power: float) -> None:
    shown = [
        Shown(point=point, values={9: 1 - 0.3 * COSTS[point] ** -power})
        for point in POINTS[:3]
        for _ in range(20)
    ]
    outlook = Outlook(COSTS, dict.fromkeys(COSTS, 9), shown)
    dearest, cheapest = outlook.next_trunk(POINTS[3]), outlook.next_trunk(POINTS[0])
    assert (dearest.mean < cheapest.mean) == (power > 0)
    assert dearest.sd > cheapest.sd > 0  # of the cheapest twenty trunks have told


def test_a_trunk_that_is_done_is_what_it_is() -> None:
    rng = random.Random(0)
    values = {e: rng.uniform(0.3, 0.9) for e in (1, 3, 9)}
    guess = Outlook(COSTS, dict.fromkeys(COSTS, 9), []).trunk(Shown(point=POINTS[0], values=values))
    assert guess == Guess(mean=math.log(1 - values[9]), sd=0.0)
