"""Guesses of what trunks come to, against draws from the model that they assume."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.grid import Point
from sweeps.scheduling.expected_gain import (
    CURVE_SD,
    EPOCHS_POWER,
    POINT_SD,
    SAMPLE_SD,
    Guess,
    Outlook,
    Shown,
)

POINTS = [Point(variant="b0", train_res=32 * n) for n in (1, 2, 3, 4)]
COSTS = {point: float(2**n) for n, point in enumerate(POINTS)}


def outlook_on(shown: Sequence[Shown], epochs: int = 9) -> Outlook:
    outlook = Outlook(COSTS, dict.fromkeys(COSTS, epochs))
    for number, trunk in enumerate(shown):
        outlook.show(f"{number}", trunk)
    return outlook


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
        outlook = outlook_on(shown, epochs=27)
        mean = outlook.trunk(Shown(point=POINTS[0], values={3: 0.5})).mean
        assert mean == pytest.approx(math.log(0.5) - power * math.log(9), abs=0.12)
    unknown = outlook_on([], epochs=27)
    mean = unknown.trunk(Shown(point=POINTS[0], values={3: 0.5})).mean
    assert mean == pytest.approx(math.log(0.5) - EPOCHS_POWER * math.log(9))


@pytest.mark.parametrize("power", [0.3, -0.2])
def test_points_that_were_seen_say_what_dearer_ones_are_worth(power: float) -> None:
    shown = [
        Shown(point=point, values={9: 1 - 0.3 * COSTS[point] ** -power})
        for point in POINTS[:3]
        for _ in range(20)
    ]
    outlook = outlook_on(shown)
    dearest, cheapest = outlook.next_trunk(POINTS[3]), outlook.next_trunk(POINTS[0])
    assert (dearest.mean < cheapest.mean) == (power > 0)
    assert dearest.sd > cheapest.sd > 0  # of the cheapest twenty trunks have told


def test_a_trunk_that_is_done_is_what_it_is() -> None:
    rng = random.Random(0)
    values = {e: rng.uniform(0.3, 0.9) for e in (1, 3, 9)}
    guess = outlook_on([]).trunk(Shown(point=POINTS[0], values=values))
    assert guess == Guess(mean=math.log(1 - values[9]), sd=0.0)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_added_up_piece_by_piece_guesses_as_a_fit_to_all_of_it(data: st.DataObject) -> None:
    """Trunks show one value after the other; then all is fitted at once."""
    shares = st.floats(0.05, 0.99)
    outlook, trunks = Outlook(COSTS, dict.fromkeys(COSTS, 27)), dict[str, Shown]()
    for _ in range(data.draw(st.integers(1, 12))):
        key = data.draw(st.sampled_from("abcdef"))
        before = trunks.get(key)
        point = before.point if before else data.draw(st.sampled_from(POINTS[:3]))
        values = {**(before.values if before else {}), data.draw(st.sampled_from((1, 3, 9))): 0.0}
        trunks[key] = Shown(point=point, values={e: data.draw(shares) for e in sorted(values)})
        outlook.show(key, trunks[key])

    steps = [
        (math.log(b / a), math.log(1 - own.values[a]) - math.log(1 - own.values[b]))
        for own in trunks.values()
        for a, b in pairwise(sorted(own.values))
    ]
    epochs_power = slope(steps, EPOCHS_POWER, 0.2, CURVE_SD)
    came_to: dict[Point, list[float]] = {}
    for own in trunks.values():
        last = max(own.values)
        log_error = math.log(1 - own.values[last]) - epochs_power * math.log(27 / last)
        came_to.setdefault(own.point, []).append(log_error)
    x = np.log([COSTS[point] for point in came_to])
    y = np.array([np.mean(values) for values in came_to.values()])
    spread = math.hypot(POINT_SD, SAMPLE_SD)
    cost_power = slope(list(zip(x - x.mean(), y.mean() - y, strict=True)), 0.1, 0.1, spread)
    unseen = POINTS[3]
    away = math.log(COSTS[unseen]) - x.mean()
    guess = outlook.next_trunk(unseen)
    assert guess.mean == pytest.approx(y.mean() - cost_power * away, abs=1e-9)
    var = POINT_SD**2 + spread**2 / len(y) + (0.1 * away) ** 2 + SAMPLE_SD**2
    assert guess.sd == pytest.approx(math.sqrt(var))


def slope(pairs: Sequence[tuple[float, float]], expected: float, sd: float, noise: float) -> float:
    """A line through the origin by least squares, with one more row for what is expected."""
    rows = [(1 / sd, expected / sd), *((a / noise, b / noise) for a, b in pairs)]
    left, right = np.array(rows).T
    return float(np.linalg.lstsq(left[:, None], right, rcond=None)[0][0])
