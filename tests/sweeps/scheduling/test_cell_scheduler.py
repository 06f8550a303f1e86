"""Phase 2 without Ray: which cells are handed out, and their rows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned, Event
from sweeps.planning.cell import Cell
from sweeps.planning.grid import native_crop
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_gmacs
from sweeps.scheduling.cell_scheduler import CellScheduler, cells_of
from tests.factories import HEAD, HYPER, plan_of, spec_with
from tests.fake_training import report_of
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json
from trainables.training.trunk import EpochReport, TrunkSpec

SPEC = spec_with(variants=("b1", "b0"), train_res=(64, 32), test_res=(96, 64), arms=("none", "fix"))


class Events(list[Event]):
    def on(self, event: Event) -> None:
        self.append(event)


@pytest.fixture
def plan() -> Plan:
    return plan_of(SPEC)


def survivors(plan: Plan) -> list[tuple[TrunkSpec, tuple[EpochReport, ...]]]:
    trunks = [plan.trunk(point, HYPER) for point in plan.points]
    return [
        (trunk, tuple(report_of(plan, trunk, e) for e in range(1, i + 2)))
        for i, trunk in enumerate(trunks)
    ]


def results_of(cell: Cell) -> list[ArmResult]:
    hits = cell.test_res % 50
    return [
        ArmResult(arm="none", score=Score(split="val", n=50, hits1=hits, hits5=50), seconds=1.0),
        ArmResult(
            arm="fix",
            score=Score(split="val", n=50, hits1=hits + 1, hits5=50),
            seconds=1.5,
            head=HEAD,
            head_tried=30,
        ),
    ]


def crops_of(variant: str) -> tuple[float, float]:
    return native_crop(variant), 1.0


def put(store: Store, cell: Cell) -> None:
    write_json(store.cell(cell.key) / "rows.json", results_of(cell))


def test_a_cell_for_each_survivor_test_resolution_and_crop_dearest_first(plan: Plan) -> None:
    cells = cells_of(plan, survivors(plan))
    listed = {(c.trunk.key, c.test_res, c.crop_pct, c.trunk_epochs) for c in cells}
    assert listed == {
        (trunk.key, res, crop, len(reports))
        for trunk, reports in survivors(plan)
        for res in (64, 96)
        for crop in crops_of(trunk.variant)
    }
    work = [cell_gmacs(plan, cell.variant, cell.test_res) for cell in cells]
    assert work == sorted(work, reverse=True)


@pytest.mark.parametrize("seed", range(8))
def test_rows_stand_in_the_order_of_the_family_whatever_that_of_work(
    plan: Plan, tmp_path: Path, seed: int
) -> None:
    events, cells = Events(), cells_of(plan, survivors(plan))
    scheduler = CellScheduler(plan, cells, Store(tmp_path), events)
    running: list[Cell] = []
    while (cell := scheduler.next()) is not None:
        running.append(cell)
    assert scheduler.is_over and sorted(c.key for c in running) == sorted(c.key for c in cells)
    random.Random(seed).shuffle(running)
    for cell in running:
        scheduler.take(cell.key, results_of(cell))
        scheduler.take(cell.key, [])  # Results that come again are passed over.
    order = [(r.variant, r.train_res, r.test_res, r.crop_pct, r.arm) for r in scheduler.rows]
    assert order == [
        (variant, train, test, crop, arm)
        for variant in ("b0", "b1")
        for train in (32, 64)
        for test in (64, 96)
        for crop in crops_of(variant)
        for arm in ("none", "fix")
    ]
    assert sum(isinstance(e, CellsPlanned) for e in events) == 1
    for kind in (CellBegan, CellEnded):
        assert sorted(e.cell.key for e in events if isinstance(e, kind)) == sorted(
            c.key for c in cells
        )


def test_rows_have_the_cost_and_keys_of_their_cell(plan: Plan, tmp_path: Path) -> None:
    cells = cells_of(plan, survivors(plan))
    scheduler = CellScheduler(plan, cells, Store(tmp_path), Events())
    cell = cells[0]
    scheduler.take(cell.key, results_of(cell))
    none, fix = scheduler.rows
    cost = plan.costs[cell.variant, cell.test_res]
    for row in (none, fix):
        assert (row.gmacs, row.params_m) == (cost.gmacs, cost.params_m)
        assert (row.trunk, row.cell, row.trunk_epochs) == (
            cell.trunk.key,
            cell.key,
            cell.trunk_epochs,
        )
    assert (none.head_tried, none.head, fix.head_tried, fix.head) == (0, None, 30, HEAD)


@pytest.mark.parametrize("seed", range(4))
def test_a_cell_that_the_store_holds_is_not_handed_out(
    plan: Plan, tmp_path: Path, seed: int
) -> None:
    store, events, cells = Store(tmp_path), Events(), cells_of(plan, survivors(plan))
    held = random.Random(seed).sample(cells, 3)
    for cell in held:
        put(store, cell)
    scheduler = CellScheduler(plan, cells, store, events)
    assert {e.cell.key for e in events if isinstance(e, CellEnded)} == {c.key for c in held}
    assert len(scheduler.rows) == 6
    unfinished = scheduler.is_over
    assert not unfinished
    while (handed := scheduler.next()) is not None:
        assert handed not in held
        scheduler.take(handed.key, results_of(handed))
    assert scheduler.is_over
    for cell in cells:
        put(store, cell)
    again = CellScheduler(plan, cells, store, Events())
    assert again.is_over and again.next() is None and again.rows == scheduler.rows


def test_a_failed_cell_has_no_rows_and_the_others_have(plan: Plan, tmp_path: Path) -> None:
    store, events, cells = Store(tmp_path), Events(), cells_of(plan, survivors(plan))
    scheduler = CellScheduler(plan, cells, store, events)
    failed = scheduler.next()
    assert failed is not None
    scheduler.failed(failed.key, "Traceback: no memory")
    while (cell := scheduler.next()) is not None:
        scheduler.take(cell.key, results_of(cell))
    assert scheduler.is_over and len(scheduler.rows) == 2 * (len(cells) - 1)
    assert failed.key not in {r.cell for r in scheduler.rows}
    (ended,) = [e for e in events if isinstance(e, CellEnded) and not e.rows]
    assert ended.cell == failed and ended.error == "Traceback: no memory"
    assert (store.cell(failed.key) / "error.txt").read_text() == ended.error
    again = CellScheduler(plan, cells, store, Events())  # The next start tries it again.
    assert again.next() is not None
