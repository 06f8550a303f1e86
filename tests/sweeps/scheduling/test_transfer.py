"""What was found of small variants begins the search of larger ones, which come after them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.search import search_of
from sweeps.planning.workload import smaller_variants
from sweeps.scheduling.proposals import Trial, propose
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import HYPER, plan_of, spec_with
from tests.fake_training import SMALL_SPEC, Events, Farm, outcome, phase
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines
from trainables.training.trunk import TrunkSpec

SEARCH = search_of(SMALL_SPEC)
LARGE = Point(variant="b2", train_res=96)


def trial(variant: str, res: int, lr: float, value: float, *, finished: bool = True) -> Trial:
    return Trial(
        point=Point(variant=variant, train_res=res), hyper=replace(HYPER, lr=lr),
        values={2: value / 2, 6: value}, running=not finished, finished=finished,
    )  # fmt: skip


def first(history: list[Trial], *smaller: str) -> float:
    return propose(SEARCH, LARGE, history, seed=0, sample=0, smaller=smaller).hyper.lr


def test_the_first_takes_the_best_of_the_next_smaller_at_the_nearest_resolution() -> None:
    history = [
        trial("b1", 64, 1e-3, 0.9),
        trial("b1", 112, 2e-3, 0.7),
        trial("b1", 112, 3e-3, 0.8),
        trial("b0", 96, 4e-3, 0.95),
    ]
    assert first(history, "b1", "b0") == 3e-3
    assert first(history, "b0") == 4e-3 and first(history[3:], "b1", "b0") == 4e-3


def test_before_any_smaller_has_finished_it_is_the_middle() -> None:
    middle = SEARCH.middle.hyper.lr
    unfinished = trial("b1", 96, 3e-3, 0.8, finished=False)
    assert first([unfinished], "b1") == middle == first([trial("b1", 96, 3e-3, 0.8)])


def test_what_is_given_comes_first_and_what_follows_is_proposed_as_ever() -> None:
    history = [trial("b1", 96, 3e-3, 0.8)]
    given = replace(SEARCH, tries=({"lr": 0.004},))
    assert propose(given, LARGE, history, seed=0, sample=0, smaller=("b1",)).hyper.lr == 0.004
    own = [*history, trial("b2", 96, 3e-3, 0.8)]
    later = propose(SEARCH, LARGE, own, seed=0, sample=1, smaller=("b1",))
    assert later == propose(SEARCH, LARGE, own[1:], seed=0, sample=1)


def plan_with(**options: object) -> Plan:
    return plan_of(spec_with(SMALL_SPEC, transfer=True, **options))


def test_variants_are_ordered_by_their_parameters() -> None:
    plan = plan_with(variants=("b2", "b0", "b1"))  # plan_of's costs grow in this order
    assert smaller_variants(plan, "b1") == ("b0", "b2") and smaller_variants(plan, "b2") == ()


@pytest.mark.parametrize("seed", range(2))
def test_larger_variants_begin_after_the_smaller_and_with_what_these_found(
    tmp_path: Path, seed: int
) -> None:
    scheduler, store, *_ = phase(plan_with(seed=seed), tmp_path)
    asked = [line for line in read_lines(store.journal) if line["event"] == "ask"]
    names = [line["variant"] for line in asked]
    assert names == sorted(names) and set(names) == {"b0", "b1"}
    best = {point_of(t): t for t in scheduler.survivors() if t.variant == "b0"}
    for res in (64, 96):
        begun = next(a for a in asked if (a["variant"], a["train_res"]) == ("b1", res))
        found = best[Point(variant="b0", train_res=res)].hyper
        assert begun["hyper"] == vars(found)


def test_a_sweep_that_is_gone_on_with_proposes_the_same(tmp_path: Path) -> None:
    whole = outcome(*phase(plan_with(), tmp_path / "whole")[:2])
    store = Store(tmp_path / "steps")
    scheduler, farm = TrunkScheduler(plan_with(), store, Events()), Farm(plan_with(), store)
    for _ in range(9):  # trials, each to its rung
        point = scheduler.queue()
        assert point is not None
        trunk = scheduler.begin(point)
        assert isinstance(trunk, TrunkSpec)
        while scheduler.report(trunk, farm.step(trunk, scheduler.epochs_reported(trunk))):
            pass
    scheduler = TrunkScheduler(plan_with(), store, Events())
    Farm(plan_with(), store).run(scheduler)
    assert outcome(scheduler, store)["results"] == whole["results"]
