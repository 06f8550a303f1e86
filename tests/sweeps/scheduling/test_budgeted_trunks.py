"""Phase 1 within a budget, on a clock that the tests turn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sweeps.events.event_types import TrunkEnded
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import nominal_ms
from sweeps.scheduling.budget import STALE, Budget, Left, Moment, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_training import SMALL_SPEC, Events, Farm
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines

PLAN = plan_of(SMALL_SPEC)
EPOCHS = SMALL_SPEC.trunks.epochs


class Known:
    """Durations that are known: epochs by nominal cost, cells of a second, an end of five."""

    start_s, spawn_s, close_s = 0.0, 2.0, 5.0
    learnt = 0

    def __init__(self, plan: Plan):
        self.plan = plan

    def epoch_s(self, point: Point, *_: object) -> float:
        return nominal_ms(self.plan.costs[point.variant, point.train_res])

    def trunk_s(self, point: Point, after: int, until: int) -> float:
        return (until - after) * self.epoch_s(point)

    def cell_s(self, *_: object) -> float:
        return 1.0

    def reading_s(self, *_: object) -> float:
        return 1.0


@dataclass
class Clock:
    now: float = 0.0


def whole_s(plan: Plan = PLAN) -> float:
    """Seconds of all trunks to their ends."""
    epochs = plan.spec.trunks.epochs
    return plan.samples * sum(Known(plan).trunk_s(p, 0, epochs) for p in plan.points)


def scheduler_with(
    store: Store[Path], clock: Clock, seconds: float, plan: Plan = PLAN, **left: float
) -> BudgetedTrunks:
    durations: Any = Known(plan)
    shares = Shares(trunks={}, cells={})

    def now_left() -> Left:
        return Left(elapsed_s=seconds - clock.now, **left)

    budget = Budget(plan, durations, now_left, shares)
    return BudgetedTrunks(plan, store, Events(), budget)


def run(scheduler: BudgetedTrunks, store: Store[Path], clock: Clock, slower: float = 1.0) -> Farm:
    """Run trials one at a time; an epoch takes ``slower`` times what is predicted."""
    plan = scheduler.plan
    farm, known = Farm(plan, store), Known(plan)
    while (point := scheduler.queue()) is not None:
        trunk = scheduler.begin(point)
        if trunk is None:
            continue
        allowed = scheduler.allowance_s(trunk)
        assert allowed is not None
        until, goes_on = clock.now + allowed, True
        while goes_on:
            seconds = slower * known.epoch_s(point_of(trunk))
            if clock.now + seconds > until + 1e-9:
                clock.now = until  # it stops at a step
                scheduler.stopped(trunk)
                break
            clock.now += seconds
            goes_on = scheduler.report(trunk, farm.step(trunk, scheduler.epochs_reported(trunk)))
    return farm


def end_s(scheduler: BudgetedTrunks) -> float:
    """Seconds of what comes after phase 1: cells one at a time, the test split, the end."""
    trunks = scheduler.survivors()
    cells = sum(len(PLAN.grid.cells(point_of(trunk))) for trunk in trunks)
    return Known.spawn_s + cells + 1.0 + Known.close_s


@pytest.mark.parametrize("slower", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6])
def test_a_budget_is_kept_and_something_is_trained_to_its_end(
    tmp_path: Path, share: float, slower: float
) -> None:
    store, clock = Store(tmp_path), Clock()
    cheapest = min(Known(PLAN).trunk_s(p, 0, EPOCHS) for p in PLAN.points)
    seconds = 30 + 2 * cheapest + share * whole_s()
    scheduler = scheduler_with(store, clock, seconds)
    run(scheduler, store, clock, slower)
    assert clock.now + end_s(scheduler) <= seconds + 1e-6
    if slower <= 1:
        assert scheduler.survivors()
    if share < 0.2:
        assert scheduler.trunks_undone > 0


def test_a_budget_that_is_large_enough_leaves_nothing_undone(tmp_path: Path) -> None:
    store, clock = Store(tmp_path), Clock()
    scheduler = scheduler_with(store, clock, 2 * whole_s() + 1000)
    trained = len(run(scheduler, store, clock).trained)
    other = Store(tmp_path / "without")
    without = Farm(PLAN, other)
    without.run(TrunkScheduler(PLAN, other, Events()))
    # Halving saves about as much as without a budget: trunks come to their rungs in another order.
    assert trained == pytest.approx(len(without.trained), rel=0.1)
    assert scheduler.is_over and scheduler.trunks_undone == 0
    assert scheduler.points_without_result == []
    assert {point_of(trunk) for trunk in scheduler.survivors()} == set(PLAN.points)


def test_nothing_is_begun_that_cannot_be_ended(tmp_path: Path) -> None:
    store, clock = Store(tmp_path), Clock()
    scheduler = scheduler_with(store, clock, 12.0)
    assert scheduler.queue() is None and scheduler.is_over and scheduler.survivors() == []
    assert scheduler.trunks_undone == PLAN.trunks
    assert scheduler.points_without_result == list(PLAN.points)


def test_a_larger_budget_goes_on_and_trains_no_epoch_twice(tmp_path: Path) -> None:
    store, clock, seen = Store(tmp_path), Clock(), set[tuple[str, int]]()
    for share in (0.1, 0.3, 0.6, 3.0):
        # What was spent before counts: the clock goes on.
        scheduler = scheduler_with(store, clock, 60 + share * whole_s())
        trained = run(scheduler, store, clock).trained
        assert len(set(trained)) == len(trained) and not seen & set(trained)
        seen |= set(trained)
    assert scheduler.trunks_undone == 0 and scheduler.points_without_result == []


@pytest.mark.parametrize("moment", range(1, 40, 3))
def test_what_was_decided_stands_wherever_the_driver_is_killed(tmp_path: Path, moment: int) -> None:
    """The journal is cut short after each line; what is trained then is what was left."""
    store, clock = Store(tmp_path), Clock()
    scheduler = scheduler_with(store, clock, 60 + 0.3 * whole_s())
    run(scheduler, store, clock)
    lines = store.journal.read_bytes().splitlines(keepends=True)
    store.journal.write_bytes(b"".join(lines[:moment]))
    again = scheduler_with(store, Clock(clock.now), 60 + 3 * whole_s())
    run(again, store, clock)
    assert again.trunks_undone == 0 and again.points_without_result == []


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0, 4.0])
def test_repeats_come_last_as_far_as_the_budget_goes(tmp_path: Path, share: float) -> None:
    plan = plan_of(spec_with(SMALL_SPEC, repeat=2))
    store, clock, seconds = Store(tmp_path), Clock(), 60 + share * whole_s()
    scheduler = scheduler_with(store, clock, seconds, plan)
    run(scheduler, store, clock)
    survivors = scheduler.survivors()
    assert scheduler.is_over and clock.now + end_s(scheduler) <= seconds + 1e-6
    numbers = [trunk.repeat for trunk in survivors]
    assert numbers == sorted(numbers)
    asked = [line for line in read_lines(store.journal) if line["event"] == "ask"]
    repeated = [bool(line.get("repeat")) for line in asked]
    assert repeated == sorted(repeated)  # none before the last first
    if share == 4.0:
        assert sum(repeated) == len(plan.points) and scheduler.trunks_undone == 0
    else:
        assert scheduler.trunks_undone >= len(plan.points) - sum(repeated)
    more = scheduler_with(store, clock, clock.now + 60 + 4 * whole_s(), plan)
    run(more, store, clock)
    assert more.is_over and more.trunks_undone == 0


@pytest.mark.parametrize("trunks", [0.0, 0.4, 0.8, 2.0])
def test_seconds_of_devices_bound_trials_that_run_beside_each_other(
    tmp_path: Path, trunks: float
) -> None:
    """As many begin as can be trained to their first rungs, the last of them to its end."""
    store, known = Store(tmp_path), Known(PLAN)
    durations: Any = known
    dearest = max(known.trunk_s(p, 0, EPOCHS) for p in PLAN.points)
    own_s = trunks * dearest
    cells = max(len(PLAN.grid.cells(point)) for point in PLAN.points)  # of one point
    shares = Shares(trunks={}, cells={}, trunks_at_a_time=8)
    budget = Budget(PLAN, durations, lambda: Left(device_s=own_s + cells + 1.0), shares)
    scheduler = BudgetedTrunks(PLAN, store, Events(), budget)
    begun: list[Point] = []
    while (point := scheduler.queue()) is not None:
        before = sum(known.trunk_s(p, 0, PLAN.rungs[0]) for p in begun)
        assert before + known.trunk_s(point, 0, EPOCHS) <= own_s + cells
        assert scheduler.begin(point) is not None
        begun.append(point)
    assert bool(begun) == (trunks > 0)


def test_the_best_trunk_is_the_first_of_those_that_are_fixed(tmp_path: Path) -> None:
    store, clock = Store(tmp_path), Clock()
    scheduler = scheduler_with(store, clock, 60 + 0.6 * whole_s())
    run(scheduler, store, clock)
    values = [scheduler._merit(trunk.key)[1] for trunk in scheduler.survivors()]
    assert values == sorted(values, reverse=True) and len(values) > 1
    assert math.isfinite(values[0])


def test_the_smaller_bound_of_a_trial_says_whether_it_has_failed(tmp_path: Path) -> None:
    durations: Any = Known(PLAN)
    plan = replace(PLAN, spec=spec_with(PLAN.spec, max_minutes_per_trial=2.0))
    for seconds, fails in ((1000.0, True), (100.0, False)):
        store = Store(tmp_path / str(seconds))
        shares = Shares(trunks={}, cells={})
        budget = Budget(plan, durations, partial(Left, elapsed_s=seconds), shares)
        events = Events()
        scheduler = BudgetedTrunks(plan, store, events, budget)
        point = scheduler.queue()
        assert point is not None
        trunk = scheduler.begin(point)
        assert trunk is not None
        allowed = scheduler.allowance_s(trunk)
        assert allowed is not None and (allowed == 120.0) == fails
        scheduler.stopped(trunk)
        assert any(isinstance(e, TrunkEnded) and e.failure for e in events) == fails


def test_reserves_grow_with_the_points_that_have_results() -> None:
    durations: Any = Known(PLAN)
    budget = Budget(PLAN, durations, lambda: Left(elapsed_s=1000.0), Shares(trunks={}, cells={}))
    none, one = budget.left_for_trunks([]), budget.left_for_trunks(PLAN.points[:1])
    assert none.elapsed_s - one.elapsed_s == len(PLAN.grid.cells(PLAN.points[0]))
    assert math.isinf(none.device_s) and none.is_enough
    halves = spec_with(SMALL_SPEC)
    assert plan_of(halves).points == PLAN.points


MANY_POINTS = spec_with(
    variants=("b0", "b1"), train_res=tuple(range(64, 64 + 16 * 8, 16)), test_res=(64, 96),
    epochs=9, samples=4, grace_epochs=1, reduction=3,
)  # fmt: skip


@pytest.mark.parametrize("share", [0.05, 0.3, 3.0])
def test_what_comes_next_is_the_best_of_all_though_not_all_are_looked_at(
    tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each look every point is weighed beside it; what differs is within what may be stale."""
    plan, looks, weighed = plan_of(MANY_POINTS), 0, 0
    weigh, best_rated = BudgetedTrunks._in_order, BudgetedTrunks._next_point

    def counted(scheduler: BudgetedTrunks, *given: Any) -> Any:
        nonlocal weighed
        weighed += 1
        return weigh(scheduler, *given)

    def compared(scheduler: BudgetedTrunks, now: Moment) -> Point | None:
        nonlocal looks
        looks += 1
        found = best_rated(scheduler, now)
        gains = {}
        for point in plan.points:
            behind = weigh(scheduler, point, now)[scheduler._queued[point] :]
            if behind:
                gains[point] = behind[0].gain
        assert (found is None) == (not gains)
        if found is not None:
            assert gains[found] >= max(gains.values()) * (1 - 5 * STALE)
        return found

    monkeypatch.setattr(BudgetedTrunks, "_in_order", counted)
    monkeypatch.setattr(BudgetedTrunks, "_next_point", compared)
    store, clock = Store(tmp_path), Clock()
    cheapest = min(Known(plan).trunk_s(p, 0, 9) for p in plan.points)
    seconds = 60 + 2 * cheapest + share * whole_s(plan)
    run(scheduler_with(store, clock, seconds, plan), store, clock)
    assert looks > len(plan.points)
    if share == 3.0:  # Little of a small budget changes much of what is left.
        assert weighed < 0.8 * looks * len(plan.points)
