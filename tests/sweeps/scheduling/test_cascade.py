"""Trunks start from the best one of the variant at the next smaller train resolution."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from sweeps.events.event_types import SweepBegan
from sweeps.events.progress import Progress
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.cell_scheduler import cells_of
from sweeps.scheduling.journal import read_journal
from sweeps.scheduling.repair import discard
from sweeps.scheduling.reuse import reuse_of
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_training import SMALL_SPEC, Events, Farm, next_trunk, outcome, phase, report_of
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import read_lines, write_json
from trainables.training.trunk import TrunkSpec, TrunkStatus, recorded_reports, recorded_status

pytestmark = pytest.mark.usefixtures("_no_power_is_cut")
RESOLUTIONS = (64, 96, 128)


@pytest.fixture
def _no_power_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def plan_with(**options: Any) -> Plan:
    return plan_of(spec_with(SMALL_SPEC, cascade=True, **{"train_res": RESOLUTIONS, **options}))


def asked(store: Store[Path], plan: Plan) -> list[TrunkSpec]:
    return list(read_journal(store, plan).asked)


def best_of(scheduler: TrunkScheduler, point: Point) -> TrunkSpec:
    return scheduler.survivors_of(point)[0]


def check_parents(scheduler: TrunkScheduler, plan: Plan, trunks: list[TrunkSpec]) -> None:
    """Each trunk has the parent, the epochs and the rungs that the survivors say it has."""
    for trunk in trunks:
        below = plan.below(point_of(trunk))
        if below is None:
            assert trunk.parent is None and trunk.recipe.epochs == 6
        else:
            assert trunk.parent is not None and trunk.recipe.epochs == 3
            assert trunk.parent.train_res == below.train_res
            assert trunk.parent.trunk == best_of(scheduler, below).key


@pytest.mark.parametrize("repeat", [1, 2])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_each_point_starts_from_the_best_one_below(
    tmp_path: Path, concurrency: int, repeat: int
) -> None:
    plan = plan_with(repeat=repeat)
    how: dict[str, Any] = {"concurrency": concurrency, "rng": random.Random(1)}
    scheduler, store, farm, _ = phase(plan, tmp_path, **how)
    trunks = asked(store, plan)
    assert scheduler.is_over and len(trunks) == plan.trunks
    check_parents(scheduler, plan, trunks)
    epochs = {t.key: max(e for key, e in farm.trained if key == t.key) for t in trunks}
    ends = {t.key: recorded_status(store, t.key) for t in trunks}
    for trunk in trunks:
        if ends[trunk.key] is TrunkStatus.FINISHED:
            assert epochs[trunk.key] == trunk.recipe.epochs
        else:
            assert epochs[trunk.key] in plan.rungs_at(point_of(trunk))[:-1]
    assert plan.rungs_at(plan.points[0]) == (1, 2, 4, 6) and plan.rungs_at(plan.points[1])[-1] == 3


def test_the_first_trunk_has_the_hyperparameters_of_the_one_that_it_starts_from(
    tmp_path: Path,
) -> None:
    plan = plan_with()
    _, store, *_ = phase(plan, tmp_path)
    by_key = {trunk.key: trunk for trunk in asked(store, plan)}
    for point in plan.cascading:
        first, *others = [t for t in by_key.values() if point_of(t) == point]
        assert first.parent is not None
        assert first.hyper == by_key[first.parent.trunk].hyper
        assert all(other.hyper != first.hyper for other in others)


@pytest.mark.parametrize("samples", [1, 2])
def test_points_that_start_from_others_may_have_fewer_trunks_and_later_more(
    tmp_path: Path, samples: int
) -> None:
    """What came first stays, and the winner of a smaller resolution that others started from."""
    few, all_ = plan_with(cascade_samples=samples), plan_with()
    scheduler, store, farm, _ = phase(few, tmp_path, concurrency=3, rng=random.Random(3))
    first = asked(store, few)
    assert scheduler.is_over and len(first) == few.trunks < all_.trunks
    for point in few.points:
        expected = samples if few.below(point) else SMALL_SPEC.search.samples
        assert sum(point_of(trunk) == point for trunk in first) == expected == few.samples_at(point)
        assert scheduler.survivors_of(point)
    trained = len(farm.trained)
    phase(all_, tmp_path, concurrency=3, rng=random.Random(4))
    more = asked(store, all_)
    assert more[: len(first)] == first and len(more) == all_.trunks
    assert {t.parent for t in more if t.parent} == {t.parent for t in first if t.parent}
    view, _, again, _ = phase(few, tmp_path)
    assert not again.trained and trained and len(view.survivors()) == len(few.points)


def test_a_trunk_waits_for_its_parent_and_other_variants_meanwhile_go_on(tmp_path: Path) -> None:
    plan = plan_with()
    _, store, *_ = phase(plan, tmp_path, concurrency=3, rng=random.Random(2))
    left = dict.fromkeys(plan.points, SMALL_SPEC.search.samples)
    points: dict[str, Point] = {}
    begun: list[Point] = []
    for line in read_lines(store.journal):
        if line["event"] == "ask":
            point = Point(variant=line["variant"], train_res=line["train_res"])
            points[line["trunk"]] = point
            begun.append(point)
            if (below := plan.below(point)) is not None:
                assert left[below] == 0, "all of the smaller resolution have ended"
        elif line["event"] == "end":
            left[points[line["trunk"]]] -= 1
    first = begun.index(Point(variant="b0", train_res=96))
    assert {point.variant for point in begun[:first]} == {"b0", "b1"}


def steps_of(plan: Plan, store: Store[Path], steps: int) -> bool:
    """Run so many trials, each to its rung, one at a time; whether there were so many."""
    scheduler, farm = TrunkScheduler(plan, store, Events()), Farm(plan, store)
    for _ in range(steps):
        trunk = next_trunk(scheduler)
        if trunk is None:
            return False
        while scheduler.report(trunk, farm.step(trunk, scheduler.epochs_reported(trunk))):
            pass
    return True


@pytest.mark.parametrize("steps", [1, 5])
def test_a_sweep_that_is_killed_again_and_again_comes_to_the_same(
    tmp_path: Path, steps: int
) -> None:
    plan = plan_with(repeat=2)
    whole = outcome(*phase(plan, tmp_path / "whole")[:2])
    store = Store(tmp_path / "steps")
    while steps_of(plan, store, steps):
        pass
    scheduler = TrunkScheduler(plan, store, Events())
    found = outcome(scheduler, store)
    assert found["results"] == whole["results"] and found["survivors"] == whole["survivors"]
    assert found["over"] and "started from one of a smaller" in scheduler.cascade


def test_where_the_smaller_resolution_fails_the_next_smaller_stands_in_for_it(
    tmp_path: Path,
) -> None:
    plan, store = plan_with(variants=("b0",)), Store(tmp_path)
    scheduler, farm = TrunkScheduler(plan, store, Events()), Farm(plan, store)
    while (trunk := next_trunk(scheduler)) is not None:
        if trunk.train_res == 96:
            scheduler.failed(trunk, "RuntimeError: no")
            continue
        while scheduler.report(trunk, farm.step(trunk, scheduler.epochs_reported(trunk))):
            pass
    largest = [t for t in asked(store, plan) if t.train_res == 128]
    assert {t.parent.train_res for t in largest if t.parent} == {64} and len(largest) == 3
    again = TrunkScheduler(plan, store, Events())  # the next command tries 96 again
    Farm(plan, store).run(again)
    assert {t.parent for t in asked(store, plan) if t.train_res == 128} == {largest[0].parent}
    assert best_of(again, plan.points[1]).parent is not None


@pytest.mark.parametrize("samples", [None, 1])
def test_where_nothing_smaller_has_finished_trunks_start_as_ever(
    tmp_path: Path, samples: int | None
) -> None:
    options: dict[str, Any] = {"variants": ("b0",), "train_res": (64, 96)}
    plan, store = plan_with(**options, cascade_samples=samples), Store(tmp_path)
    progress = Progress()
    progress.on(SweepBegan(plan=plan))
    scheduler, farm = TrunkScheduler(plan, store, progress), Farm(plan, store)
    while (trunk := next_trunk(scheduler)) is not None:
        if trunk.train_res == 64:
            scheduler.failed(trunk, "RuntimeError: no")
            continue
        while scheduler.report(trunk, farm.step(trunk, scheduler.epochs_reported(trunk))):
            pass
    larger = [t for t in asked(store, plan) if t.train_res == 96]
    assert [(t.parent, t.recipe.epochs) for t in larger] == [(None, 6)] * 3
    assert set(progress.ended) == {t.key for t in asked(store, plan)}, "more epochs than planned"
    assert progress.planned_trunks == len(progress.trunks) and not progress.waiting_trunks
    assert max(epoch for key, epoch in farm.trained if key == larger[0].key) in plan.rungs
    assert recorded_status(store, best_of(scheduler, plan.points[1]).key) is TrunkStatus.FINISHED
    assert "those of b0 at 96 started from the weights as they come" in scheduler.cascade
    plain = plan_of(spec_with(SMALL_SPEC, variants=("b0",), train_res=(64, 96)))
    key = plain.trunk(plain.points[1], larger[0].hyper).key
    assert larger[0].key == key, "it is any trunk"


def test_a_sweep_that_is_extended_keeps_its_parents(tmp_path: Path) -> None:
    few = plan_with(variants=("b0",), train_res=(96, 128), samples=2)
    phase(few, tmp_path)
    before = asked(Store(tmp_path), few)
    more = plan_with(variants=("b0",), samples=5)
    scheduler, store, farm, _ = phase(more, tmp_path)
    trunks = asked(store, more)
    assert scheduler.is_over and len(trunks) == more.trunks
    assert not {t.key for t in before} & {key for key, _ in farm.trained}
    parents = {res: {t.parent for t in trunks if t.train_res == res} for res in RESOLUTIONS}
    assert parents[64] == parents[96] == {None}, "96 had begun before there was 64"
    assert parents[128] == {next(t.parent for t in before if t.train_res == 128)}
    view, _, farm, _ = phase(few, tmp_path)
    assert not farm.trained and {t.key for t in asked(store, few)} == {t.key for t in before}
    assert view.is_over


@pytest.mark.parametrize("steps", [2, None])
def test_what_began_before_there_was_a_smaller_resolution_stays(
    tmp_path: Path, steps: int | None
) -> None:
    """Also where a point has fewer trunks now: it has begun as one that starts from nothing."""
    few, more = (
        plan_with(variants=("b0",), train_res=resolutions, cascade_samples=1)
        for resolutions in ((96, 128), RESOLUTIONS)
    )
    store = Store(tmp_path)
    if steps is None:
        phase(few, tmp_path)
    else:
        assert steps_of(few, store, steps)
    before = asked(store, few)
    reuse = reuse_of(more, store)
    assert (reuse.trunks_planned, more.trunks) == (7, 5)
    progress = Progress()
    progress.on(SweepBegan(plan=more))
    scheduler, farm = TrunkScheduler(more, store, progress), Farm(more, store)
    assert progress.planned_trunks == 7 or steps
    farm.run(scheduler)
    trunks = asked(store, more)
    assert scheduler.is_over and trunks[: len(before)] == before and len(trunks) == 7
    assert progress.planned_trunks == 7 == len(progress.ended)
    at_128 = [trunk.parent for trunk in trunks if trunk.train_res == 128]
    assert [own and own.trunk for own in at_128] == [best_of(scheduler, few.points[0]).key]
    view, _, farm, _ = phase(few, tmp_path)
    assert not farm.trained and view.is_over and len(asked(store, few)) == 4


def test_without_the_smallest_resolution_a_sweep_is_viewed(tmp_path: Path) -> None:
    """What has started from there keeps its number of trunks."""
    whole, few = (
        plan_with(train_res=resolutions, cascade_samples=1)
        for resolutions in (RESOLUTIONS, (96, 128))
    )
    _, store, *_ = phase(whole, tmp_path)
    before = asked(store, whole)
    reuse = reuse_of(few, store)
    assert reuse.trunks == reuse.trunks_planned == 4 < few.trunks
    for plan in (few, whole):
        view, _, farm, _ = phase(plan, tmp_path)
        assert not farm.trained and view.is_over
        assert asked(store, plan) == [t for t in before if point_of(t) in plan.points]
        assert len(view.survivors()) == len(plan.points)


def test_a_parent_whose_weights_are_gone_is_trained_again_before_its_children(
    tmp_path: Path,
) -> None:
    few, more = (plan_with(variants=("b0",), samples=samples) for samples in (2, 3))
    scheduler, store, *_ = phase(few, tmp_path)
    parent = best_of(scheduler, few.points[1])
    weights = store.trunk(parent.key) / "trunk.safetensors"
    survivors = [(t, tuple(recorded_reports(store, t.key))) for t in scheduler.survivors()]
    for cell in cells_of(few, survivors):
        write_json(store.cell(cell.key) / "rows.json", [])
    weights.unlink()  # as --keep does
    assert reuse_of(few, store).trunks_again == 0 and reuse_of(more, store).trunks_again == 1
    with pytest.raises(DamagedFileError) as damaged:
        phase(more, tmp_path)
    assert damaged.value.path == weights and discard(store, weights)
    scheduler, _, farm, _ = phase(more, tmp_path, concurrency=3)
    order = list(dict.fromkeys(key for key, _ in farm.trained))
    new = [t.key for t in asked(store, more) if t.train_res == 128][-1]
    assert order.index(parent.key) < order.index(new)
    assert scheduler.is_over and weights.exists()


class Known:
    """An epoch takes a second at 64 px, four at 128; there is nothing else."""

    start_s = spawn_s = close_s = 0.0
    learnt = 0

    def trunk_s(self, point: Point, after: int, until: int) -> float:
        return (until - after) * (point.train_res / 64) ** 2

    def cell_s(self, *_: object) -> float:
        return 0.0

    def reading_s(self, *_: object) -> float:
        return 0.0


def budgeted(plan: Plan, store: Store[Path], seconds: float) -> tuple[BudgetedTrunks, float]:
    """Run one trial at a time within a budget; the scheduler, and what was spent."""
    known: Any = Known()
    spent = 0.0
    budget = Budget(
        plan, known, lambda: Left(elapsed_s=seconds - spent), Shares(trunks={}, cells={})
    )
    scheduler, farm = BudgetedTrunks(plan, store, Events(), budget), Farm(plan, store)
    while (trunk := next_trunk(scheduler)) is not None:
        goes_on = True
        while goes_on:
            spent += known.trunk_s(point_of(trunk), 0, 1)
            goes_on = scheduler.report(trunk, farm.step(trunk, scheduler.epochs_reported(trunk)))
    return scheduler, spent


@pytest.mark.parametrize("seconds", [1000, 40, 30, 20, 12, 8])
def test_within_a_budget_what_has_finished_when_nothing_else_fits_is_the_parent(
    tmp_path: Path, seconds: float
) -> None:
    plan, store = plan_with(variants=("b0",), train_res=(64, 128)), Store(tmp_path)
    scheduler, spent = budgeted(plan, store, seconds)
    trunks = asked(store, plan)
    assert spent <= seconds and scheduler.is_over and trunks
    finished = [t.key for t in trunks if recorded_status(store, t.key) is TrunkStatus.FINISHED]
    for trunk in trunks:
        if trunk.train_res == 128:
            assert trunk.parent is not None and trunk.parent.trunk in finished
    if seconds == 1000:
        check_parents(scheduler, plan, trunks)
        assert scheduler.trunks_undone == 0
    began = any(trunk.train_res == 128 for trunk in trunks)
    assert began or seconds - spent < 12, "three epochs of four seconds would have fitted"


def test_without_the_option_nothing_is_a_parent(tmp_path: Path) -> None:
    plan = plan_of(SMALL_SPEC)
    scheduler, store, *_ = phase(plan, tmp_path)
    assert all("parent" not in line for line in read_lines(store.journal))
    assert scheduler.cascade == "" and plan.cascading == ()


def test_reports_have_val_at_the_rungs_of_their_own_trunk() -> None:
    plan = plan_with()
    trunk = plan.trunk(plan.points[0], plan.search.middle.hyper)
    assert [e for e in range(1, 7) if report_of(plan, trunk, e).val] == [1, 2, 4, 6]
