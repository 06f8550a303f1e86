"""The search: a pure function of the history that learns across train resolutions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sweeps.planning.grid import Point
from sweeps.planning.options.groups import TrunkOptions
from sweeps.scheduling.tpe import Trial, middle_of_ranges, propose
from trainables.training.recipe import Hyper

OPTIONS = TrunkOptions(lr=(1e-4, 1e-1), weight_decay=(1e-3, 1e-1), label_smoothing=(0.0, 0.2))
SMALL, LARGE = Point(variant="b0", train_res=64), Point(variant="b0", train_res=128)
OTHER = Point(variant="b1", train_res=64)


def random_hyper(rng: random.Random) -> Hyper:
    def log(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    return Hyper(
        lr=log(*OPTIONS.lr),
        weight_decay=log(*OPTIONS.weight_decay),
        label_smoothing=rng.uniform(*OPTIONS.label_smoothing),
    )


def quality(hyper: Hyper) -> float:
    """Between 0 and 1, best at lr 0.01, weight decay 0.03, smoothing 0.05."""
    miss = (
        (math.log10(hyper.lr) + 2) ** 2 / 4
        + (math.log10(hyper.weight_decay) + 1.5) ** 2
        + ((hyper.label_smoothing - 0.05) / 0.2) ** 2
    )
    return math.exp(-miss)


def finished(point: Point, hyper: Hyper, top1: float | None = None) -> Trial:
    value = quality(hyper) if top1 is None else top1
    return Trial(point=point, hyper=hyper, values={2: value / 2, 6: value}, running=False,
                 finished=True)  # fmt: skip


def mixed_history(seed: int, points: Sequence[Point] = (SMALL, LARGE), count: int = 16) -> list:
    """Finished, cut, diverged and running trials."""
    rng, history = random.Random(seed), []
    for i in range(count):
        trial = finished(points[i % len(points)], random_hyper(rng))
        kind = rng.choice(("finished", "finished", "cut", "diverged", "running"))
        if kind == "cut":
            trial = replace(trial, values={2: trial.values[2]}, finished=False)
        elif kind == "diverged":
            trial = replace(trial, values={}, finished=False)
        elif kind == "running":
            trial = replace(trial, values={}, finished=False, running=True)
        history.append(trial)
    return history


def next_hyper(
    history: Sequence[Trial], point: Point = SMALL, sample: int = 20, seed: int = 0
) -> Hyper:
    return propose(OPTIONS, point, history, seed=seed, sample=sample)


def test_first_at_each_point_is_the_middle() -> None:
    expected = Hyper(lr=0.00316228, weight_decay=0.01, label_smoothing=0.1)
    assert middle_of_ranges(OPTIONS) == expected
    others = [finished(LARGE, random_hyper(random.Random(i))) for i in range(9)]
    for history in ([], others, [finished(OTHER, expected)]):
        assert next_hyper(history) == expected
    assert next_hyper([finished(SMALL, expected)]) != expected


@pytest.mark.parametrize("seed", range(6))
def test_same_history_same_proposal_whatever_happened_before(seed: int) -> None:
    history = mixed_history(seed)
    first = next_hyper(history)
    random.seed(seed)
    next_hyper(mixed_history(seed + 100), LARGE, sample=3, seed=9)
    assert next_hyper(list(history)) == first


def test_sample_and_seed_change_the_proposal() -> None:
    history = mixed_history(1)
    proposals = {next_hyper(history, sample=i, seed=s) for i in range(4) for s in range(3)}
    assert len(proposals) == 12


def test_points_of_a_variant_do_not_draw_the_same() -> None:
    history = [finished(p, middle_of_ranges(OPTIONS)) for p in (SMALL, LARGE)]
    assert next_hyper(history, SMALL, sample=1) != next_hyper(history, LARGE, sample=1)


@pytest.mark.parametrize("seed", range(4))
def test_other_variants_do_not_matter(seed: int) -> None:
    history = mixed_history(seed)
    theirs = mixed_history(seed + 50, points=(OTHER,))
    woven = [t for pair in zip(history, theirs, strict=True) for t in pair]
    assert next_hyper(woven) == next_hyper(history)


@pytest.mark.parametrize("seed", range(8))
def test_only_the_order_within_a_train_resolution_matters(seed: int) -> None:
    bend: dict[Point, Callable[[float], float]] = {
        SMALL: lambda x: 0.1 * x,
        LARGE: lambda x: 0.5 + 0.5 * x**3,
    }
    history = mixed_history(seed)
    bent = [replace(t, values={e: bend[t.point](v) for e, v in t.values.items()}) for t in history]
    assert bent != history and next_hyper(bent) == next_hyper(history)


@pytest.mark.parametrize("seed", range(10))
def test_proposals_stay_within_the_ranges(seed: int) -> None:
    history = mixed_history(seed, count=seed * 3)
    for index in range(6):
        hyper = next_hyper(history, sample=index, seed=seed)
        for name in ("lr", "weight_decay", "label_smoothing"):
            low, high = getattr(OPTIONS, name)
            assert low * (1 - 1e-5) <= getattr(hyper, name) <= high * (1 + 1e-5)


DEGENERATE: list[dict[str, Any]] = [
    {"label_smoothing": (0.0, 0.0)},
    {"label_smoothing": (0.1, 0.1), "weight_decay": (0.03, 0.03)},
    {"lr": (3e-4, 3e-4)},
    {"lr": (1e-3, 1e-3), "weight_decay": (0.05, 0.05), "label_smoothing": (0.0, 0.0)},
]


@pytest.mark.parametrize("ranges", DEGENERATE)
def test_a_range_of_one_value_gives_that_value(ranges: dict[str, Any]) -> None:
    options = replace(OPTIONS, **ranges)
    history: list[Trial] = []
    for index in range(10):
        hyper = propose(options, SMALL, history, seed=0, sample=index)
        for name, (value, _) in ranges.items():
            assert getattr(hyper, name) == pytest.approx(value, rel=1e-6)
        history.append(finished(SMALL, hyper))


NARROW = [
    (0.0012345678, 0.0012345678),
    (0.0012345678, 0.00123456785),
    (0.001, math.nextafter(0.001, 1)),
    (0.00123449999, 0.00123450001),
    (1e-320, 1e-320),
    (1e-200, 1e-190),
    (1e200, 1e210),
    (123456789.0, 123456790.0),
]


@pytest.mark.parametrize("name", ["lr", "weight_decay", "label_smoothing"])
@pytest.mark.parametrize("ends", NARROW)
def test_proposals_stay_within_ranges_narrower_than_their_rounding(
    name: str, ends: tuple[float, float]
) -> None:
    low, high = ends
    if name == "label_smoothing" and high >= 1:
        low, high = 0.123456789, 0.12345679
    ranges: dict[str, Any] = {name: (low, high)}
    options, history = replace(OPTIONS, **ranges), list[Trial]()
    for index in range(7):  # of which the last ones are the sampler's own
        hyper = propose(options, SMALL, history, seed=0, sample=index)
        assert low <= getattr(hyper, name) <= high
        history.append(finished(SMALL, hyper, top1=index / 10))


def test_an_earlier_trial_whose_rounding_left_the_range_is_taken() -> None:
    options = replace(OPTIONS, lr=(0.0012345678, 0.0012345678))
    rounded = finished(SMALL, Hyper(lr=0.00123457, weight_decay=0.01, label_smoothing=0.1))
    assert propose(options, SMALL, [rounded], seed=0, sample=1).lr == 0.0012345678


@pytest.mark.parametrize("kind", ["diverged", "cut", "running", "tied", "one"])
def test_any_outcome_of_earlier_trials_is_taken(kind: str) -> None:
    rng = random.Random(0)
    history = [finished(SMALL, random_hyper(rng)) for _ in range(9)]
    if kind == "tied":
        history = [replace(t, values={6: 0.5}) for t in history]
    elif kind == "one":
        history = history[:1]
    else:
        top1 = {2: 0.1} if kind == "cut" else {}
        running = kind == "running"
        history = [replace(t, values=top1, finished=False, running=running) for t in history]
    assert OPTIONS.lr[0] <= next_hyper(history).lr <= OPTIONS.lr[1]


def search(seed: int, trials: int, shift: float) -> list[Hyper]:
    """Proposals at two points in turn, with accuracies that differ by ``shift`` between them."""
    history: list[Trial] = []
    for index in range(trials):
        point = (SMALL, LARGE)[index % 2]
        hyper = propose(OPTIONS, point, history, seed=seed, sample=index)
        scale = 1 - shift if point == SMALL else 1.0
        history.append(finished(point, hyper, scale * quality(hyper)))
    return [t.hyper for t in history]


def test_learns_more_than_chance_across_train_resolutions() -> None:
    trials, seeds = 20, 12
    proposed = [search(seed, trials, shift=0.7) for seed in range(seeds)]
    drawn = [[random_hyper(random.Random(f"{s} {i}")) for i in range(trials)] for s in range(200)]

    def mean_best(runs: list[list[Hyper]]) -> float:
        return sum(max(map(quality, run)) for run in runs) / len(runs)

    def mean_late(runs: list[list[Hyper]]) -> float:
        late = [quality(h) for run in runs for h in run[trials // 2 :]]
        return sum(late) / len(late)

    assert mean_best(proposed) > mean_best(drawn)
    assert mean_late(proposed) > 1.3 * mean_late(drawn)


def test_a_gap_between_train_resolutions_does_not_matter() -> None:
    assert search(0, 14, shift=0.0) == search(0, 14, shift=0.9)
