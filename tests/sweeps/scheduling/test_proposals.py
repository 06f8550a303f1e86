"""The search: a pure function of the history that learns across train resolutions."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from sweeps.planning.checks.validation import check_spec
from sweeps.planning.grid import Point
from sweeps.planning.options.groups import TrunkOptions
from sweeps.planning.options.hyperparameters import hyperparameters
from sweeps.planning.options.search_options import Searcher
from sweeps.planning.options.space import Interval, as_json, check_entries, search_space
from sweeps.planning.search import Draw, Search, search_of
from sweeps.scheduling import proposals
from sweeps.scheduling.proposals import Trial, propose
from tests.factories import spec_with
from trainables.errors import UserError
from trainables.training.recipe import Hyper

RATES = (1e-4, 1e-1)
OPTIONS = TrunkOptions(lr=RATES, weight_decay=(1e-3, 1e-1), label_smoothing=(0.0, 0.2))
SMALL, LARGE = Point(variant="b0", train_res=64), Point(variant="b0", train_res=128)
SEARCH = Search(space=search_space(OPTIONS, None))
OTHER = Point(variant="b1", train_res=64)


def random_hyper(rng: random.Random) -> Hyper:
    def log(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    return Hyper(
        lr=log(*RATES),
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
    return propose(SEARCH, point, history, seed=seed, sample=sample).hyper


def test_first_at_each_point_is_the_middle() -> None:
    expected = Hyper(lr=0.00316228, weight_decay=0.01, label_smoothing=0.1)
    assert SEARCH.middle.hyper == expected
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
    history = [finished(p, SEARCH.middle.hyper) for p in (SMALL, LARGE)]
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
    search = Search(space=search_space(replace(OPTIONS, **ranges), None))
    history: list[Trial] = []
    for index in range(10):
        hyper = propose(search, SMALL, history, seed=0, sample=index).hyper
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
    search = Search(space=search_space(replace(OPTIONS, **ranges), None))
    history: list[Trial] = []
    for index in range(7):  # of which the last ones are the sampler's own
        hyper = propose(search, SMALL, history, seed=0, sample=index).hyper
        assert low <= getattr(hyper, name) <= high
        history.append(finished(SMALL, hyper, top1=index / 10))


def test_an_earlier_trial_whose_rounding_left_the_range_is_taken() -> None:
    options = replace(OPTIONS, lr=(0.0012345678, 0.0012345678))
    search = Search(space=search_space(options, None))
    rounded = finished(SMALL, Hyper(lr=0.00123457, weight_decay=0.01, label_smoothing=0.1))
    assert propose(search, SMALL, [rounded], seed=0, sample=1).hyper.lr == 0.0012345678


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
    assert RATES[0] <= next_hyper(history).lr <= RATES[1]


def search(seed: int, trials: int, shift: float) -> list[Hyper]:
    """Proposals at two points in turn, with accuracies that differ by ``shift`` between them."""
    history: list[Trial] = []
    for index in range(trials):
        point = (SMALL, LARGE)[index % 2]
        hyper = propose(SEARCH, point, history, seed=seed, sample=index).hyper
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


@pytest.mark.parametrize("seed", range(6))
def test_what_a_study_is_told_could_as_well_be_copied_deeply(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = mixed_history(seed)
    shallow = [propose(SEARCH, SMALL, history, seed=seed, sample=n) for n in (16, 17)]
    monkeypatch.delattr(proposals._Told, "__deepcopy__")
    deep = [propose(SEARCH, SMALL, history, seed=seed, sample=n) for n in (16, 17)]
    assert shallow == deep and shallow[0] != shallow[1]


@pytest.mark.parametrize("seed", range(3))
def test_of_many_trials_tpe_is_told_what_it_takes_for_good_and_the_latest(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna itself splits what it is told into good and bad."""
    history = mixed_history(seed, count=2 * proposals.MOST_TOLD)
    told = proposals._told(SEARCH.space, history)
    monkeypatch.setattr(proposals, "MOST_TOLD", math.inf)
    everything = proposals._told(SEARCH.space, history)
    assert len(told) == 1_000 and len(everything) == len(history)
    study = optuna.create_study(direction="maximize")
    good, of_all = (
        _split_trials(study, trials, default_gamma(len(trials)))[0]
        for trials in (numbered(told), numbered(everything))
    )
    assert [t.params for t in good] == [t.params for t in of_all]
    params = [t.params for t in told]
    places = [at for at, one in enumerate(everything) if one.params in params]
    assert [everything[at].params for at in places] == params  # in their order
    latest = len(everything) - 400
    assert places[-400:] == list(range(latest, len(everything)))
    assert max(b - a for a, b in pairwise(places)) < 10


def numbered(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """As a study numbers them."""
    for number, trial in enumerate(trials):
        trial.number = number
    return list(trials)


def test_a_thousand_trials_are_all_told() -> None:
    history = mixed_history(0, count=proposals.MOST_TOLD)
    told = proposals._told(SEARCH.space, history)
    assert [t.params["lr"] for t in told] == [t.hyper.lr for t in history]


def test_a_gap_between_train_resolutions_does_not_matter() -> None:
    assert search(0, 14, shift=0.0) == search(0, 14, shift=0.9)


# --- every searcher -----------------------------------------------------------------------------

SEARCHERS = get_args(Searcher)
MIXED: dict[str, Any] = {
    "optimizer": {"choices": ["sgd", "adamw"]},
    "batch_size": {"low": 8, "high": 128, "log": True},
    "crop_scale": {"choices": [[0.08, 1.0], [0.25, 1.0], [0.5, 1.0]]},
    "hflip": {"low": 0.0, "high": 1.0, "log": False},
}


def search_with(searcher: Any, entries: Any = None, tries: Any = ()) -> Search:
    return Search(space=search_space(OPTIONS, entries), searcher=searcher, tries=tries)


def trial_of(draw: Draw, point: Point, value: float | None = None) -> Trial:
    top1 = quality(draw.hyper) if value is None else value
    return Trial(point=point, hyper=draw.hyper, recipe=draw.recipe, values={6: top1},
                 running=False, finished=True)  # fmt: skip


def run(search: Search, samples: int, seed: int = 0, point: Point = SMALL) -> list[Draw]:
    history: list[Trial] = []
    for sample in range(samples):
        draw = propose(search, point, history, seed=seed, sample=sample)
        history.append(trial_of(draw, point))
    return [trial.draw for trial in history]


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_each_searcher_stays_in_any_space_and_repeats_itself(searcher: str) -> None:
    search = search_with(searcher, MIXED)
    draws = run(search, 12)
    assert draws == run(search, 12) and draws != run(search, 12, seed=1)
    assert draws[0] == search.middle
    for draw in draws:
        assert draw.values.keys() == search.space.keys()
        for name, value in draw.values.items():
            parameter, dimension = hyperparameters()[name], search.space[name]
            assert parameter.value_of(value) == value
            assert type(value) is type(parameter.value_of(value))
            if isinstance(dimension, Interval):
                assert dimension.low <= value <= dimension.high
            else:
                assert value in dimension.values
    for name in search.space:
        assert len({draw.values[name] for draw in draws}) > 1, name


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("order", range(4))
def test_the_order_in_which_entries_are_written_changes_no_proposal(
    searcher: str, order: int
) -> None:
    names = random.Random(order).sample(list(MIXED), len(MIXED))
    other = search_with(searcher, {name: MIXED[name] for name in names})
    assert run(other, 8) == run(search_with(searcher, MIXED), 8)


@pytest.mark.parametrize("searcher", ["random", "qmc"])
@pytest.mark.parametrize("sample", [1, 2, 9])
def test_a_searcher_without_results_proposes_by_the_number_of_the_sample_alone(
    searcher: str, sample: int
) -> None:
    search = search_with(searcher, MIXED)
    histories = [mixed_history(seed, count=sample + seed) for seed in range(6)]
    found = [propose(search, SMALL, h, seed=3, sample=sample) for h in histories]
    assert len(found) == 6 and all(draw == found[0] for draw in found)
    assert propose(search, LARGE, histories[0], seed=3, sample=sample) != found[0]


@pytest.mark.parametrize("seed", [0, 7])
def test_qmc_gives_the_elements_of_scipys_scrambled_sobol_sequence(seed: int) -> None:
    fixed = {"lr": 0.01, "weight_decay": 0.01}
    entries = {**fixed, "hflip": {"low": 0.0, "high": 1.0, "log": False}}
    search = search_with("qmc", entries)
    own = [finished(SMALL, SEARCH.middle.hyper)]
    scramble = proposals._seed(seed, SMALL.variant, SMALL.train_res)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the size of the sample
        elements = qmc.Sobol(4, seed=scramble, scramble=True).random(20)
    for sample in range(1, 20):
        draw = propose(search, SMALL, own, seed=seed, sample=sample)
        spread = [draw.values["label_smoothing"] / 0.2, draw.values["hflip"]]
        axes = [list(search.space).index(name) for name in ("label_smoothing", "hflip")]
        assert spread == pytest.approx(elements[sample][axes], abs=1e-5)


def test_qmc_fills_the_space_more_evenly_than_random() -> None:
    def discrepancy(searcher: str, seed: int) -> float:
        search, own = search_with(searcher), [finished(SMALL, SEARCH.middle.hyper)]
        draws = [propose(search, SMALL, own, seed=seed, sample=s).hyper for s in range(32)]
        places = [
            (math.log10(d.lr / 1e-4) / 3, math.log10(d.weight_decay / 1e-3) / 2,
             d.label_smoothing / 0.2)
            for d in draws
        ]  # fmt: skip
        return float(qmc.discrepancy(places))

    even, uneven = ([discrepancy(name, seed) for seed in range(4)] for name in ("qmc", "random"))
    assert max(even) < min(uneven)


def test_tpe_learns_which_choice_is_better() -> None:
    search = search_with("tpe", {"optimizer": {"choices": ["sgd", "adamw"]}})
    later: list[Any] = []
    for seed in range(6):
        history: list[Trial] = []
        for sample in range(24):
            draw = propose(search, SMALL, history, seed=seed, sample=sample)
            better = 0.5 * (draw.recipe["optimizer"] == "adamw")
            history.append(trial_of(draw, SMALL, better + 0.1 * quality(draw.hyper)))
        later += [trial.recipe["optimizer"] for trial in history[12:]]
    assert later.count("adamw") > 0.7 * len(later)


SMALL_SPACE: dict[str, Any] = {
    "lr": 1e-3, "weight_decay": 0.01, "label_smoothing": {"choices": [0.0, 0.1]},
    "optimizer": {"choices": ["sgd", "adamw"]}, "batch_size": {"low": 8, "high": 10, "log": False},
}  # fmt: skip


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_in_a_small_space_every_point_is_tried_once(searcher: str) -> None:
    draws = run(search_with(searcher, SMALL_SPACE), 12)
    assert len({tuple(draw.values.items()) for draw in draws}) == 12


# --- points that are given ----------------------------------------------------------------------


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_given_points_come_first_in_their_order_the_rest_of_them_in_the_middle(
    searcher: str,
) -> None:
    tries = (
        {"lr": 0.02, "optimizer": "adamw"},
        {"lr": 0.03, "train_res": 128},
        {"label_smoothing": 0.15, "crop_scale": [0.5, 1.0], "variant": "b0"},
        {"variant": "b1", "lr": 0.04},
    )
    search = search_with(searcher, MIXED, tries)
    middle = search.middle.values
    at_small, at_large = run(search, 4), run(search, 4, point=LARGE)
    assert at_small[0].values == {**middle, "lr": 0.02, "optimizer": "adamw"}
    third = {**middle, "label_smoothing": 0.15, "crop_scale": (0.5, 1.0)}
    assert at_small[1].values == third and at_large[2].values == third
    assert at_large[1].values == {**middle, "lr": 0.03}
    assert run(search, 1, point=OTHER)[0].values == {**middle, "lr": 0.02, "optimizer": "adamw"}
    assert run(search, 2, point=OTHER)[1].values == {**middle, "lr": 0.04}
    assert search.middle not in at_small


def test_what_all_trunks_share_is_no_part_of_a_draw() -> None:
    search = search_with("tpe", None, ({"lr": 0.02, "optimizer": "adamw"},))
    assert run(search, 1)[0].values == {**search.middle.values, "lr": 0.02}


def test_where_no_given_point_applies_the_middle_is_first() -> None:
    search = search_with("random", None, ({"variant": "b1", "lr": 0.02},))
    assert run(search, 1) == [search.middle] != run(search, 1, point=OTHER)


# --- anything that is accepted ------------------------------------------------------------------

ENDS = st.floats(1e-6, 1) | st.floats(min_value=0, allow_nan=False, allow_infinity=False)
ENDS |= st.integers(0, 2**40)
VALUES = ENDS | st.booleans() | st.sampled_from(["sgd", "adamw", "cosine", "none", "uniform"])
ENTRIES = st.one_of(
    VALUES,
    st.fixed_dictionaries({"low": ENDS, "high": ENDS}, optional={"log": st.booleans()}),
    st.fixed_dictionaries({"choices": st.lists(VALUES | st.lists(ENDS, max_size=2), max_size=3)}),
)
NAMES = st.sampled_from(list(hyperparameters()))


@settings(max_examples=60, deadline=None, database=None)
@given(
    given_entries=st.dictionaries(NAMES, ENTRIES, max_size=3),
    point=st.dictionaries(NAMES, VALUES, max_size=2),
    searcher=st.sampled_from(SEARCHERS),
)
def test_what_the_checks_accept_can_be_searched(
    given_entries: dict[str, Any], point: dict[str, Any], searcher: Any
) -> None:
    entries: dict[str, Any] = {}
    for name, entry in given_entries.items():
        with suppress(UserError):  # each is refused for itself, so that many specs have some
            entries |= check_entries({name: entry}, "--space f")
    options: dict[str, Any] = {"variants": ("b0",), "train_res": (64,), "lr": (1e-4, 1e-1)}
    spec = spec_with(searcher=searcher, space=entries or None, **options)
    with suppress(UserError):
        tried = {name: as_json(hyperparameters()[name].value_of(v)) for name, v in point.items()
                 if _is_taken(name, v)}  # fmt: skip
        spec = check_spec(spec_with(spec, try_=(tried,) if tried else None))
        search = search_of(spec)
        for draw in run(search, 3):
            assert draw.values.keys() == search.space.keys()
            for name, value in draw.values.items():
                assert hyperparameters()[name].value_of(value) == value


def _is_taken(name: str, value: Any) -> bool:
    try:
        hyperparameters()[name].value_of(value)
    except ValueError:
        return False
    return True
