"""Time left, on a clock that the tests turn."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from sweeps.events.durations import Durations
from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
    TrunkPaused,
)
from sweeps.events.progress import Progress
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_work, epoch_work
from tests.factories import HYPER, a_row, plan_of, spec_with
from tests.fake_training import report_of
from trainables.profiling.speed import NOMINAL, Speed
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

PLAN = plan_of(
    spec_with(
        variants=("b0", "b1"),
        train_res=(64, 96),
        test_res=(64, 96),
        test_crop_pct=(1.0,),
        samples=2,
        epochs=4,
        grace_epochs=1,
        reduction=2,
    )
)
BEGAN = 1_700_000_000.0
SLOWER = 40  # than the nominal device, and nothing runs beside anything else
CLOSE = 0.05  # what may stay open when little has been timed, as a share


def epoch_s(point: Point, epoch: int) -> float:
    return SLOWER * Speed(on_gpu=False).seconds(epoch_work(PLAN, point, epoch))


def trunk_s(point: Point, after: int = 0) -> float:
    return sum(epoch_s(point, epoch) for epoch in range(after + 1, PLAN.spec.trunks.epochs + 1))


def cell_s(cell: Cell) -> float:
    work = cell_work(PLAN, cell.variant, cell.test_res, cell.spec.arms)
    head_s = work.head_steps * NOMINAL.head_step_ms / 1000  # which is the host's
    return SLOWER * Speed(on_gpu=False).seconds(replace(work, head_steps=0)) + head_s


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def trunks_of(plan: Plan) -> list[TrunkSpec]:
    hypers = [replace(HYPER, lr=1e-3 * (i + 1)) for i in range(plan.spec.search.samples)]
    return [plan.trunk(point, hyper) for hyper in hypers for point in plan.points]


def cells_of(plan: Plan) -> list[Cell]:
    best = trunks_of(plan)[: len(plan.points)]
    return [
        plan.cell(t, t.recipe.epochs, res, crop)
        for t in best
        for res, crop in plan.grid.cells(point_of(t))
    ]


class Sweep:
    """A sweep without cuts on fake machines, one or several."""

    def __init__(self, plan: Plan, machines: int = 1, noise: float = 0.0):
        self.plan, self.cluster_resources, self.clock = plan, machines, Clock()
        self.progress = Progress(self.clock)
        self.progress.on(SweepBegan(plan=plan))
        self.noise, self.rng = noise, random.Random(0)
        self.estimates: list[tuple[float, float, float]] = []  # at, expected, most

    def _pace(self) -> float:
        return 1 + self.noise * self.rng.uniform(-1, 1)

    def run(self) -> None:
        self._phase([self._trunk(t) for t in trunks_of(self.plan)])
        self.progress.on(CellsPlanned(cells=tuple(cells_of(self.plan))))
        self._phase([self._cell(c) for c in cells_of(self.plan)])

    def _trunk(self, trunk: TrunkSpec) -> Any:
        self.progress.on(TrunkBegan(trunk=trunk))
        reports: tuple[Any, ...] = ()
        for epoch in range(1, self.plan.spec.trunks.epochs + 1):
            point = next(p for p in self.plan.points if str(p) == str_of(trunk))
            seconds = self._pace() * epoch_s(point, epoch)
            yield seconds
            report = timed(trunk, epoch, self.clock, seconds)
            reports = (*reports, report)
            self.progress.on(EpochEnded(trunk=trunk, report=report, should_continue=True))
            self._estimate()
        self.progress.on(TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=reports))

    def _cell(self, cell: Cell) -> Any:
        self.progress.on(CellBegan(cell=cell))
        seconds = self._pace() * cell_s(cell)
        yield seconds
        row = a_row(cell=cell.key, variant=cell.variant, seconds=seconds)
        self.progress.on(CellEnded(cell=cell, rows=(row,)))
        self._estimate()

    def _phase(self, jobs: list[Any]) -> None:
        """Each machine takes the next job when it is free."""
        running: list[tuple[float, Any]] = []
        while jobs or running:
            while jobs and len(running) < self.cluster_resources:
                job = jobs.pop(0)
                running.append((self.clock() + next(job), job))
            running.sort(key=lambda r: r[0])
            self.clock.now, job = running.pop(0)
            step = next(job, None)
            if step is not None:
                running.append((self.clock() + step, job))

    def _estimate(self) -> None:
        left = self.progress.left()
        assert left is not None
        self.estimates.append((self.clock(), *left))


def timed(trunk: TrunkSpec, epoch: int, clock: Clock, seconds: float) -> EpochReport:
    report = report_of(PLAN, trunk, epoch, at=int(1000 * clock()))
    return replace(report, seconds=seconds, device="CPU of a test, 1 thread")


def str_of(trunk: TrunkSpec) -> str:
    return f"{trunk.variant} at {trunk.train_res}"


def test_at_a_constant_pace_the_estimate_is_right_from_the_first_epoch_on() -> None:
    sweep = Sweep(PLAN)
    sweep.run()
    for at, expected, most in sweep.estimates:
        assert most == pytest.approx(sweep.clock() - at, rel=CLOSE, abs=1e-3)
        assert expected <= most + 1e-6


def test_at_a_varying_pace_the_estimate_becomes_right() -> None:
    sweep = Sweep(PLAN, noise=0.3)
    sweep.run()
    half = len(sweep.estimates) // 2
    for at, _, most in sweep.estimates[half:]:
        assert most == pytest.approx(sweep.clock() - at, rel=0.25, abs=0.01)


@pytest.mark.parametrize("machines", [2, 3])
def test_several_at_a_time_take_less(machines: int) -> None:
    alone, together = Sweep(PLAN), Sweep(PLAN, machines)
    alone.run()
    together.run()
    half = len(together.estimates) // 2
    at, _, most = together.estimates[half]
    assert most == pytest.approx(together.clock() - at, rel=0.3)
    assert together.clock() - BEGAN < alone.clock() - BEGAN


@pytest.mark.parametrize("machines", [1, 3])
def test_nothing_is_left_at_the_end(machines: int) -> None:
    sweep = Sweep(PLAN, machines)
    sweep.run()
    assert sweep.progress.left() == (0.0, 0.0)
    assert sweep.progress.waiting_trunks == 0
    assert len(sweep.progress.ended) == PLAN.trunks


def test_no_more_is_left_than_of_the_budget() -> None:
    sweep = Sweep(PLAN)
    sweep.progress.is_bounded_by(lambda _: 100.0 - (sweep.clock() - BEGAN))
    sweep.run()
    bounds = [max(0.0, 100.0 - (at - BEGAN)) for at, _, _ in sweep.estimates]
    pairs = list(zip(bounds, sweep.estimates, strict=True))
    assert all(expected <= most <= bound for bound, (_, expected, most) in pairs)
    assert any(most == bound > 0 for bound, (_, _, most) in pairs)


def test_the_last_cell_takes_the_time_of_one_however_many_trials_ran_at_a_time() -> None:
    sweep, paces = Sweep(PLAN, machines=3), list[float]()

    def bound(pace: float) -> float:
        paces.append(pace)
        return math.inf

    sweep.progress.is_bounded_by(bound)
    sweep.run()
    (at, expected, most), (*cells, last) = sweep.estimates[-2], cells_of(PLAN)
    assert expected == most == pytest.approx(cell_s(last), rel=CLOSE)
    assert sweep.clock() - at <= expected
    done_s = sum(map(cell_s, cells)) + 2 * sum(map(trunk_s, PLAN.points))
    at_a_time = done_s / (at - BEGAN)
    of_trunks = PLAN.trunks * PLAN.spec.trunks.epochs
    assert set(paces[:of_trunks]) == {1.0}
    assert 2 < at_a_time < 3 and paces[-2] == pytest.approx(1 / at_a_time)


def test_probes_that_are_yet_to_be_fitted_are_of_the_time_left() -> None:
    """The same is timed in two sweeps, of which one starts trunks from probes."""
    plans = PLAN, plan_of(spec_with(PLAN.spec, start="probe"))
    left, durations = [], Durations(plans[1], clock=Clock())
    for plan in plans:
        clock, trunk = Clock(), trunks_of(plan)[0]
        progress = Progress(clock)
        progress.on(SweepBegan(plan=plan))
        seconds = epoch_s(point_of(trunk), 1)
        began = TrunkBegan(trunk=trunk)
        progress.on(began)
        clock.now += seconds
        report = timed(trunk, 1, clock, seconds)
        ended = EpochEnded(trunk=trunk, report=report, should_continue=True)
        progress.on(ended)
        if plan is plans[1]:
            durations.on(began)
            durations.on(ended)
        left.append(progress.left())
    others = [point for point in PLAN.points if point != point_of(trunk)]
    probes_s = sum(map(durations.probe_s, others))
    assert len(others) == 3 and probes_s > 0 and left[0] is not None
    assert left[1] == pytest.approx([seconds + probes_s for seconds in left[0]])


def test_there_is_no_estimate_before_anything_is_measured() -> None:
    clock = Clock()
    progress = Progress(clock)
    assert progress.left() is None
    progress.on(SweepBegan(plan=PLAN))
    progress.on(TrunkBegan(trunk=trunks_of(PLAN)[0]))
    clock.now += 60
    assert progress.left() is None
    assert progress.elapsed == 60


def test_replayed_epochs_count_for_nothing() -> None:
    """They were free: what was measured is what this process did."""
    first, *_ = trunks_of(PLAN)
    clock = Clock()
    progress = Progress(clock)
    progress.on(SweepBegan(plan=PLAN))
    progress.on(TrunkBegan(trunk=first))
    for epoch in (1, 2):
        old = report_of(PLAN, first, epoch, at=int(1000 * (BEGAN - 3600)))
        clock.now += 0.001
        progress.on(EpochEnded(trunk=first, report=old, should_continue=True))
    assert progress.left() is None
    assert progress.epochs[first.key] == 2
    point = PLAN.points[0]
    clock.now += epoch_s(point, 3)
    new = timed(first, 3, clock, epoch_s(point, 3))
    progress.on(EpochEnded(trunk=first, report=new, should_continue=True))
    left = progress.left()
    assert left is not None
    trunks = [trunk_s(p) for p in PLAN.points]
    work = 2 * sum(trunks) - trunks[0] + trunk_s(point, 3)
    work += sum(map(cell_s, cells_of(PLAN)))
    assert left[1] == pytest.approx(work, rel=CLOSE)


def test_trunks_that_wait_at_rungs_are_expected_to_go_on_as_far_as_there_is_room() -> None:
    """Of the two of a point one goes on after epoch 1, and after 2."""
    clock = Clock()
    progress = Progress(clock)
    progress.on(SweepBegan(plan=PLAN))
    point = PLAN.points[0]
    own = [trunk for trunk in trunks_of(PLAN) if point_of(trunk) == point]
    for trunk in own:
        progress.on(TrunkBegan(trunk=trunk))
        clock.now += epoch_s(point, 1)
        report = timed(trunk, 1, clock, epoch_s(point, 1))
        progress.on(EpochEnded(trunk=trunk, report=report, should_continue=False))
        progress.on(TrunkPaused(trunk=trunk, after=1, val=report.val))
    assert progress.paused == {trunk.key: 1 for trunk in own} and not progress.epochs
    cells = sum(map(cell_s, cells_of(PLAN)))
    others = [p for p in PLAN.points if p != point]
    most = 2 * sum(map(trunk_s, others)) + 2 * trunk_s(point, 1)
    expected = sum(trunk_s(p) + epoch_s(p, 1) for p in others) + trunk_s(point, 1)
    left = progress.left()
    assert left == pytest.approx((expected + cells, most + cells), rel=CLOSE)
    progress.on(TrunkBegan(trunk=own[0], after=1))
    assert progress.epochs == {own[0].key: 1} and progress.paused == {own[1].key: 1}
    assert progress.left() == pytest.approx(left)
    reports = (report_of(PLAN, own[1], 1),)
    progress.on(TrunkEnded(trunk=own[1], status=TrunkStatus.CUT, reports=reports))
    assert not progress.paused
    now = progress.left()
    assert now is not None and now[0] == pytest.approx(left[0] if left else None)
    assert now[1] == pytest.approx(most - trunk_s(point, 1) + cells, rel=CLOSE)


def test_trunks_and_cells_that_the_store_holds_are_done() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.on(SweepBegan(plan=PLAN))
    trunks = trunks_of(PLAN)
    for trunk in trunks:
        reports = tuple(report_of(PLAN, trunk, e) for e in range(1, 5))
        progress.on(TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=reports))
    assert progress.waiting_trunks == 0
    progress.on(CellsPlanned(cells=tuple(cells_of(PLAN))))
    done, running, *rest = cells_of(PLAN)
    progress.on(CellEnded(cell=done, rows=(a_row(),)))
    assert progress.left() is None
    progress.on(CellBegan(cell=running))
    clock.now += 5
    progress.on(CellEnded(cell=running, rows=(a_row(seconds=5.0),)))
    left = progress.left()
    assert left is not None and left[0] == left[1]
    assert left[0] == pytest.approx(5 / cell_s(running) * sum(map(cell_s, rest)), rel=0.2)


def test_cells_that_come_beside_trunks_leave_the_time_of_trunks_counted() -> None:
    """And when all are planned, it is as if they had been at once."""
    clock, at_once = Clock(), Progress(Clock())
    progress = Progress(clock)
    trunks, cells = trunks_of(PLAN), cells_of(PLAN)
    first, *others = cells
    for one in (progress, at_once):
        one.on(SweepBegan(plan=PLAN))
    progress.on(CellsPlanned(cells=(first,), is_last=False))
    progress.on(CellBegan(cell=first))
    clock.now += cell_s(first)
    progress.on(CellEnded(cell=first, rows=(a_row(seconds=cell_s(first)),)))
    left, all_cells = progress.left(), sum(map(cell_s, others))
    whole = sum(trunk_s(point) for point in PLAN.points) * len(trunks) / len(PLAN.points)
    assert left is not None and left[1] == pytest.approx(whole + all_cells, rel=0.5)
    are_all_planned = progress.are_all_planned
    assert len(progress.cells) == len(progress.cells_done) == 1 and not are_all_planned
    for trunk in trunks:
        reports = tuple(report_of(PLAN, trunk, e) for e in range(1, 5))
        progress.on(TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=reports))
    progress.on(CellsPlanned(cells=tuple(others)))
    at_once.on(CellsPlanned(cells=tuple(cells)))
    assert progress.cells == at_once.cells and progress.are_all_planned
    left = progress.left()
    assert left is not None and left[0] == left[1] == pytest.approx(all_cells, rel=0.2)
    progress.on(CellsPlanned(cells=tuple(cells)))  # what was lost is made again
    assert not progress.cells_done


def test_the_best_so_far_is_the_one_with_most_hits() -> None:
    progress = Progress(Clock())
    progress.on(SweepBegan(plan=PLAN))
    scores = []
    for trunk in trunks_of(PLAN):
        reports = tuple(report_of(PLAN, trunk, e) for e in (1, 2, 3, 4))
        progress.on(TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=reports))
        scores += [s.hits1 for r in reports for s in r.val.values()]
    assert progress.best_trunk is not None and progress.best_trunk[0].hits1 == max(scores)
    for i, cell in enumerate(cells_of(PLAN)):
        rows = (a_row(10 + 3 * (i % 3), arm="none"), a_row(11 + 3 * (i % 3)))
        progress.on(CellEnded(cell=cell, rows=rows))
    assert progress.best_row is not None and progress.best_row.hits1 == 17
