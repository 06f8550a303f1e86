"""What a plan takes, predicted before it begins, and by what was timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from sweeps.events.durations import Durations
from sweeps.events.event_types import CellBegan, CellEnded, EpochEnded, TrunkBegan
from sweeps.events.forecast import first_forecast, forecast
from sweeps.planning.grid import point_of
from sweeps.planning.workload import cell_work, epoch_work, expected_trunks, planned_cells
from tests.factories import a_row, plan_of, spec_with
from tests.fake_training import report_of
from tests.sweeps.events.test_progress import PLAN, Clock, cells_of, timed, trunks_of
from trainables.profiling.speed import Speed
from trainables.profiling.speed_file import keep_timings, read_all_timings
from trainables.storage.artifact_store import Store

TRUTH = Speed(on_gpu=False)


def told(durations: Durations, clock: Clock, start_s: float = 3.0) -> None:
    """Run an epoch of each kind at each point, and a cell, on a device of a hundred times."""
    for trunk in trunks_of(PLAN)[: len(PLAN.points)]:
        for epoch in (1, 3):
            seconds = 100 * TRUTH.seconds(epoch_work(PLAN, point_of(trunk), epoch))
            durations.on(TrunkBegan(trunk=trunk))
            clock.now += seconds + start_s
            report = timed(trunk, epoch, clock, seconds)
            durations.on(EpochEnded(trunk=trunk, report=report, should_continue=True))
    for cell in cells_of(PLAN):
        durations.on(CellBegan(cell=cell))
        work = cell_work(PLAN, cell.variant, cell.test_res, cell.spec.arms)
        clock.now += 1
        row = a_row(cell=cell.key, seconds=100 * TRUTH.seconds(work))
        durations.on(CellEnded(cell=cell, rows=(row,)))


def test_a_plan_takes_what_its_parts_were_timed_to_take() -> None:
    clock = Clock()
    durations = Durations(PLAN, clock=clock)
    assert not durations.is_measured and forecast(PLAN, durations).device == ""
    told(durations, clock)
    predicted = forecast(PLAN, durations)
    epochs = [
        (expected_trunks(PLAN, point, epoch), 100 * TRUTH.seconds(epoch_work(PLAN, point, epoch)))
        for point in PLAN.points
        for epoch in range(1, PLAN.spec.trunks.epochs + 1)
    ]
    assert predicted.trunks_s == pytest.approx(sum(n * s for n, s in epochs), rel=1e-3)
    assert predicted.trunks_most_s == pytest.approx(PLAN.samples * sum(s for _, s in epochs))
    cells = [cell_work(PLAN, c.variant, c.test_res, c.spec.arms) for c in cells_of(PLAN)]
    trained = 100 * sum(map(TRUTH.seconds, cells))
    assert predicted.cells_s >= trained * (1 - 1e-6)  # those of untouched nets beside
    assert predicted.device == "CPU of a test, 1 thread"
    assert durations.start_s == pytest.approx(3.0)


def test_reading_the_untouched_net_is_predicted_where_the_choice_is_compared_with_it() -> None:
    spec = spec_with(PLAN.spec, weights="auto")
    plans = {
        name: plan_of(spec_with(spec, **options), weights=True)
        for name, options in {
            "with": {},
            "without": {"untouched": False},
            "refit": {"refit": True},
        }.items()
    }
    found = {n: forecast(p, Durations(p, clock=Clock())).reading_s for n, p in plans.items()}
    plan = plans["with"]
    kinds = [(v, res) for v in plan.untouched_variants for res, _ in plan.untouched_tests(v)]
    seconds = [Durations(plan).reading_s(v, res, plan.counts["test"]) for v, res in kinds]
    trained_and_untouched = [
        Durations(plan).reading_s(v, res, plan.counts["test"]) for v, res, _ in planned_cells(plan)
    ]
    assert found["refit"] == pytest.approx(fmean(trained_and_untouched))
    assert found["with"] == pytest.approx(found["refit"] + fmean(seconds))
    assert 0 < found["without"] < found["with"]


def test_a_later_sweep_knows_from_the_first_second(tmp_path: Path) -> None:
    clock = Clock()
    plan = plan_of(spec_with(PLAN.spec, cache_dir=tmp_path))
    first = Durations(plan, clock=clock)
    told(first, clock)
    with first.closing():
        clock.now += 25
        for seconds in (10, 5):  # a refit and readings, which are predicted by themselves
            with first.apart():
                clock.now += seconds
    for timed_here in first.timed():
        keep_timings(tmp_path, timed_here)
    later = Durations(PLAN, read_all_timings(tmp_path))
    assert later.is_measured and later.timed_s == 0
    assert forecast(PLAN, later) == replace(
        forecast(PLAN, first), close_s=later.boot_s + later.spawn_s + 25.0
    )
    assert later.start_s == pytest.approx(3.0)


def test_the_first_forecast_stands(tmp_path: Path) -> None:
    clock, store = Clock(), Store(tmp_path)
    durations = Durations(PLAN, clock=clock)
    first = first_forecast(store, PLAN, durations)
    told(durations, clock)
    assert first_forecast(store, PLAN, durations) == first != forecast(PLAN, durations)


def test_what_the_store_held_is_not_timed() -> None:
    durations = Durations(PLAN, clock=Clock())
    trunk, cell = trunks_of(PLAN)[0], cells_of(PLAN)[0]
    old = report_of(PLAN, trunk, 1, at=1000)
    durations.on(EpochEnded(trunk=trunk, report=old, should_continue=True))
    durations.on(CellEnded(cell=cell, rows=(a_row(seconds=5.0),)))
    assert not durations.is_measured
