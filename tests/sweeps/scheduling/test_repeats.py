"""Repeats: what is fixed is trained again with other seeds, once it is known; nothing else is."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling.reuse import reuse_of
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_training import SMALL_SPEC, Events, Farm, diverging, outcome, phase, report_of
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus, recorded_status


def plan_with(repeat: int, **options: object) -> Plan:
    return plan_of(spec_with(SMALL_SPEC, repeat=repeat, **options))


def firsts(trunks: list[TrunkSpec]) -> list[TrunkSpec]:
    return [trunk for trunk in trunks if not trunk.repeat]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_best_of_each_point_is_trained_so_often_to_the_end(
    tmp_path: Path, concurrency: int
) -> None:
    plain, *_ = phase(plan_with(1), tmp_path / "once")
    how: dict[str, Any] = {"concurrency": concurrency, "rng": random.Random(1)}
    scheduler, store, farm, _ = phase(plan_with(3), tmp_path / "thrice", **how)
    survivors = scheduler.survivors()
    assert scheduler.is_over
    if concurrency == 1:  # the search is not told of repeats
        assert firsts(survivors) == plain.survivors()
    counts = Counter(point_of(trunk) for trunk in survivors)
    assert counts == dict.fromkeys(scheduler.plan.points, 3)
    for trunk in survivors:
        assert recorded_status(store, trunk.key) is TrunkStatus.FINISHED
        (first,) = [t for t in firsts(survivors) if point_of(t) == point_of(trunk)]
        assert trunk == replace(first, repeat=trunk.repeat)
    seeds = {(point_of(t), t.training_seed) for t in survivors}
    assert len(seeds) == len(survivors)
    assert len({key for key, _ in farm.trained}) == scheduler.plan.trunks


def test_repeats_begin_when_a_points_trunks_are_settled(tmp_path: Path) -> None:
    _, store, *_ = phase(plan_with(2), tmp_path, concurrency=3, rng=random.Random(2))
    ended: set[str] = set()
    trunks: dict[str, tuple[str, int]] = {}
    for line in read_lines(store.journal):
        if line["event"] == "ask":
            point = (line["variant"], line["train_res"])
            if line.get("repeat"):
                of_point = {key for key, where in trunks.items() if where == point}
                assert of_point <= ended and len(of_point) == SMALL_SPEC.search.samples
            trunks[line["trunk"]] = point
        elif line["event"] == "end":
            ended.add(line["trunk"])
    assert len(trunks) == plan_with(2).trunks


def test_a_sweep_that_was_killed_goes_on_with_its_repeats(tmp_path: Path) -> None:
    plan = plan_with(3)
    whole, store, *_ = phase(plan, tmp_path / "whole")
    expected = outcome(whole, store)
    for stop_after in (20, 31, 38):
        killed = Store(tmp_path / f"killed{stop_after}")
        scheduler, farm = TrunkScheduler(plan, killed, Events()), Farm(plan, killed)
        farm.training = _killing(stop_after)
        with pytest.raises(KeyboardInterrupt):
            farm.run(scheduler)
        scheduler, farm = TrunkScheduler(plan, killed, Events()), Farm(plan, killed)
        farm.run(scheduler)
        found = outcome(scheduler, killed)
        assert {k: v for k, v in found.items() if k != "journal"} == {
            k: v for k, v in expected.items() if k != "journal"
        }


def _killing(after: int):
    left = [after]

    def training(plan: Plan, trunk: TrunkSpec, epoch: int) -> EpochReport:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return report_of(plan, trunk, epoch)

    return training


def test_more_repeats_add_to_a_finished_sweep_and_fewer_are_a_view_of_it(tmp_path: Path) -> None:
    once, store, *_ = phase(plan_with(1), tmp_path)
    keys = [trunk.key for trunk in once.survivors()]
    thrice, _, farm, _ = phase(plan_with(3), tmp_path)
    assert {key for key, _ in farm.trained}.isdisjoint(keys)
    assert len({key for key, _ in farm.trained}) == 2 * len(keys)
    assert [trunk.key for trunk in firsts(thrice.survivors())] == keys
    assert reuse_of(plan_with(3), store).trunks == plan_with(3).trunks
    again, _, farm, _ = phase(plan_with(2), tmp_path)
    assert not farm.trained
    assert [t.repeat for t in again.survivors()] == [0, 1] * len(keys)
    back, _, farm, _ = phase(plan_with(1), tmp_path)
    assert not farm.trained and [t.key for t in back.survivors()] == keys


def test_of_several_that_are_fixed_each_is_repeated(tmp_path: Path) -> None:
    plan = plan_with(2, survivors=2, grace_epochs=6)  # none is cut
    scheduler, *_ = phase(plan, tmp_path)
    survivors = scheduler.survivors()
    assert [trunk.repeat for trunk in survivors] == [0, 1, 0, 1] * len(plan.points)
    assert len({t.key for t in survivors}) == plan.fixed * len(plan.points)


def test_a_cut_trunk_is_not_repeated(tmp_path: Path) -> None:
    plan = plan_with(2, survivors=3)
    scheduler, store, *_ = phase(plan, tmp_path)
    repeated = {t.configuration for t in scheduler.survivors() if t.repeat}
    assert repeated and all(recorded_status(store, k) is TrunkStatus.FINISHED for k in repeated)
    cut = [t for t in scheduler.survivors() if recorded_status(store, t.key) is TrunkStatus.CUT]
    assert cut and not {t.key for t in cut} & repeated


def test_a_repeat_that_diverges_is_no_survivor(tmp_path: Path) -> None:
    def training(plan: Plan, trunk: TrunkSpec, epoch: int) -> EpochReport:
        if trunk.repeat == 1:
            trunk = replace(trunk, hyper=replace(trunk.hyper, lr=1.0))
            return diverging(plan, trunk, epoch)
        return report_of(plan, trunk, epoch)

    scheduler, store, *_ = phase(plan_with(3), tmp_path, training)
    found = [(t.variant, t.repeat) for t in scheduler.survivors()]
    assert ("b0", 1) not in found and ("b1", 1) in found and ("b0", 2) in found
    assert scheduler.is_over and not outcome(scheduler, store)["open"]
