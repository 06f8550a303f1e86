"""What is reserved for cells, and given back; and a budget that holds where cells come early."""

from __future__ import annotations

import heapq
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sweeps.events.event_types import CellEnded
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.settled_cells import SettledCells
from tests.factories import HYPER, a_row, plan_of, spec_with
from tests.fake_training import Events, Farm, next_trunk
from tests.sweeps.scheduling.test_budgeted_trunks import PLAN, Clock, Known, whole_s
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json
from trainables.training.trunk import TrunkSpec

POINT, OTHER = PLAN.points[:2]
TWO = Shares(trunks={}, cells={}, trunks_at_a_time=2, cells_at_a_time=2)


def budget_of(seconds: float, clock: Clock | None = None, shares: Shares = TWO) -> Budget:
    durations: Any = Known(PLAN)
    began = clock or Clock()
    return Budget(PLAN, durations, lambda: Left(elapsed_s=seconds - began.now), shares)


def cell_at(point: Any) -> Cell:
    res, crop = PLAN.grid.cells(point)[0]
    return PLAN.cell(PLAN.trunk(point, HYPER), 1, res, crop)


def test_what_is_reserved_for_a_cell_is_given_back_once_it_is_made() -> None:
    budget, cell = budget_of(100.0), cell_at(POINT)
    before = budget.left_for_trunks({POINT}).elapsed_s
    cells = len(PLAN.grid.cells(POINT)) * PLAN.survivors
    assert before == 100.0 - Known.spawn_s - cells / 2 - 1.0 - Known.close_s
    budget.on(CellEnded(cell=cell, rows=(), error="failed: it is tried again"))
    assert budget.left_for_trunks({POINT}).elapsed_s == before
    for _ in range(2):
        budget.on(CellEnded(cell=cell, rows=(a_row(),)))
        assert budget.left_for_trunks({POINT}).elapsed_s == before + 0.5
    assert budget.left_for_trunks({OTHER}).elapsed_s == before


class ByImages(Known):
    """Readings take a second an image, of b1 two; cells nothing."""

    def cell_s(self, *_: object) -> float:
        return 0.0

    def reading_s(self, *given: Any) -> float:
        variant, _, images = given
        return float(images * (2 if variant == "b1" else 1))

    def refit_s(self, *_: object) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("options", "images"),
    [({}, 40 + 50 + 40), ({"untouched": False}, 40 + 50), ({"refit": True}, 40)],
)
def test_the_end_has_room_to_read_the_untouched_net_where_the_choice_is_compared_with_it(
    options: dict[str, Any], images: int
) -> None:
    """The dearest net may be chosen: test and val are read for it, and test for the other."""
    spec = spec_with(variants=("b0", "b1"), train_res=(64,), weights="auto", **options)
    plan = plan_of(spec, val=50, test=40, weights=True)
    durations: Any = ByImages(plan)
    budget = Budget(plan, durations, lambda: Left(elapsed_s=1000.0), TWO)
    end_s = Known.spawn_s + Known.close_s + 2 * images
    assert budget.left_for_trunks(()).elapsed_s == 1000.0 - end_s


class Refitted(Known):
    """A refit takes 30 s, of b1 40."""

    def refit_s(self, point: Point, _: int) -> float:
        return 40.0 if point.variant == "b1" else 30.0


def test_the_end_has_room_to_train_the_choice_again() -> None:
    plans = [
        plan_of(spec_with(variants=("b0", "b1"), train_res=(64,), refit=again))
        for again in (False, True)
    ]
    durations: Any = [Refitted(plan) for plan in plans]
    left = [
        Budget(plan, known, lambda: Left(elapsed_s=1000.0), TWO).left_for_trunks(()).elapsed_s
        for plan, known in zip(plans, durations, strict=True)
    ]
    assert left[0] - left[1] == 40.0


def test_a_cell_comes_early_only_where_all_that_is_reserved_fits() -> None:
    cell = cell_at(POINT)
    assert budget_of(100.0).fits_early(cell, frozenset({POINT}), 0.0)
    assert not budget_of(100.0).fits_early(cell, frozenset({OTHER}), 0.0), (
        "nothing is reserved for it"
    )
    assert not budget_of(10.0).fits_early(cell, frozenset({POINT}), 0.0), (
        "others would not fit any more"
    )
    made = budget_of(100.0)
    for _ in range(2):
        made.on(CellEnded(cell=cell, rows=(a_row(),)))
    same_kind = len([res for res, _ in PLAN.grid.cells(POINT) if res == cell.test_res])
    assert made.fits_early(cell, frozenset({POINT}), 0.0) == (same_kind * PLAN.survivors > 1)


class Workers:
    """Two places for trials of both kinds, on a clock; trunks take another time than predicted."""

    def __init__(self, root: Path, seconds: float, slower: float):
        self.clock, self.slower, self.store = Clock(), slower, Store(root)
        budget = budget_of(seconds, self.clock)
        self.trunks = BudgetedTrunks(PLAN, self.store, Events(), budget)
        cells = CellScheduler(PLAN, None, self.store, budget, budget.fits_cell)
        self.settled = SettledCells(self.trunks, cells, self.store, best_first=True)
        self.farm, self.known = Farm(PLAN, self.store), Known(PLAN)
        self.number, self.early = count(), 0
        self.running: list[tuple[float, int, Any]] = []  # by the time at which they are heard of

    def run(self) -> None:
        while True:
            while len(self.running) < 2 and self._begin():
                pass
            if not self.running:
                return
            self.clock.now, _, said = heapq.heappop(self.running)
            said()

    def _begin(self) -> bool:
        if (trunk := next_trunk(self.trunks)) is not None:
            allowed = self.trunks.allowance_s(trunk)
            assert allowed is not None
            self._train(trunk, self.clock.now + allowed)
            return True
        are_trunks = any(not isinstance(said, _Made) for _, _, said in self.running)
        if not are_trunks:
            self.settled.plan_all()
        if (cell := self.settled.next()) is None:
            return False
        self.early += are_trunks
        self._say(self.clock.now + 1.0, _Made(self, cell))
        return True

    def _say(self, at: float, said: Any) -> None:
        heapq.heappush(self.running, (at, next(self.number), said))

    def _train(self, trunk: TrunkSpec, until: float) -> None:
        at = self.clock.now + self.slower * self.known.epoch_s(point_of(trunk))
        if at > until + 1e-9:
            self._say(until, lambda: self.trunks.stopped(trunk))
            return

        def ended() -> None:
            report = self.farm.step(trunk, self.trunks.epochs_reported(trunk))
            if self.trunks.report(trunk, report):
                self._train(trunk, until)

        self._say(at, ended)


class _Made:
    """A cell is made."""

    def __init__(self, workers: Workers, cell: Cell):
        self.workers, self.cell = workers, cell

    def __call__(self) -> None:
        score = Score(split="val", n=50, hits1=20, hits5=50)
        results = [ArmResult(arm=arm, score=score, seconds=1.0) for arm in self.cell.spec.arms]
        write_json(self.workers.store.cell(self.cell.key) / "rows.json", results)
        self.workers.settled.cells.take(self.cell.key, results)


@pytest.mark.parametrize("slower", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 2.0])
def test_a_budget_is_kept_where_cells_come_beside_trunks(
    tmp_path: Path, share: float, slower: float
) -> None:
    cheapest = min(Known(PLAN).trunk_s(p, 0, PLAN.spec.trunks.epochs) for p in PLAN.points)
    seconds = 40 + 2 * cheapest + share * whole_s() / 2
    workers = Workers(tmp_path, seconds, slower)
    workers.run()
    assert workers.clock.now + 1.0 + Known.close_s <= seconds + 1e-6
    cells = workers.settled.cells
    if slower <= 1:
        assert cells.rows and not cells.left_out, "what was reserved for is made"
    if share == 2.0 and slower == 1.0:
        assert workers.early
