"""How far a sweep is, and how long it will take: arithmetic over its events. Shows nothing.

Work is counted in GMACs, a training step as three forward passes. What a GMAC takes is measured as
the sweep goes, for each variant and train resolution on its own (small nets at small resolutions
take longer than their GMACs say), and for cells. What the store already held was free.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_gmacs, epoch_gmacs, expected_gmacs_left, gmacs_left
from sweeps.selection.leaderboard import Row
from trainables.evaluation.metrics import Score
from trainables.training.trunk import TrunkSpec

CELLS = "cells"  # beside the points, what a rate is measured for


class _Rate:
    """Seconds a GMAC, and what they were measured on."""

    def __init__(self) -> None:
        self.seconds = self.work = 0.0

    def add(self, seconds: float, work: float) -> None:
        self.seconds += seconds
        self.work += work


class Progress:
    """A watcher that adds up."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._process_began = clock()
        self._work_began: float | None = None
        self._rates: dict[Point | str, _Rate] = defaultdict(_Rate)
        self._since: dict[str, float] = {}  # of what runs, when its present step began
        self.plan: Plan | None = None
        self.epochs: dict[str, int] = {}  # of trunks in training, by key
        self.trunks: dict[str, TrunkSpec] = {}  # all that were heard of
        self.ended: dict[str, str] = {}
        self.cells: dict[str, Cell] | None = None
        self.cells_done: set[str] = set()
        self.cells_running: set[str] = set()
        self.best_trunk: tuple[Score, TrunkSpec, int] | None = None
        self.best_row: Row | None = None

    def on(self, event: Event) -> None:
        match event:
            case SweepBegan(plan=plan):
                self.plan = plan
            case TrunkBegan(trunk=trunk):
                self.trunks[trunk.key] = trunk
                self.epochs[trunk.key] = 0
                self._begin(trunk.key)
            case EpochEnded(trunk=trunk, report=report):
                if report.at >= 1000 * self._process_began and self.plan is not None:
                    work = epoch_gmacs(self.plan, point_of(trunk), report.epoch)
                    self._measure(trunk.key, point_of(trunk), work)
                self._since[trunk.key] = self._clock()
                self.epochs[trunk.key] = report.epoch
            case TrunkEnded(trunk=trunk, why=why, reports=reports):
                self.trunks[trunk.key] = trunk
                self.ended[trunk.key] = why
                self.epochs.pop(trunk.key, None)
                for report in reports:
                    self._see_trunk(trunk, report.val)
            case CellsPlanned(cells=cells):
                self.cells = {cell.key: cell for cell in cells}
            case CellBegan(cell=cell):
                self.cells_running.add(cell.key)
                self._begin(cell.key)
            case CellEnded(cell=cell, rows=rows):
                if cell.key in self.cells_running and rows and self.plan is not None:
                    work = cell_gmacs(self.plan, cell.variant, cell.test_res)
                    self._measure(cell.key, CELLS, work)
                self.cells_running.discard(cell.key)
                self.cells_done.add(cell.key)
                for row in rows:
                    if self.best_row is None or row.hits1 > self.best_row.hits1:
                        self.best_row = row

    def _begin(self, key: str) -> None:
        self._since[key] = self._clock()
        if self._work_began is None:
            self._work_began = self._clock()

    def _measure(self, key: str, what: Point | str, work: float) -> None:
        seconds = self._clock() - self._since.get(key, self._clock())
        self._rates[what].add(seconds, work)

    def _see_trunk(self, trunk: TrunkSpec, val: dict[int, Score]) -> None:
        for res, score in val.items():
            if self.best_trunk is None or score.hits1 > self.best_trunk[0].hits1:
                self.best_trunk = (score, trunk, res)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._process_began

    @property
    def waiting_trunks(self) -> int:
        assert self.plan is not None
        return max(0, self.plan.trunks - len(self.trunks))

    def left(self) -> tuple[float, float] | None:
        """Seconds left: expected, and at most. None before there is anything to go by."""
        busy = sum(rate.seconds for rate in self._rates.values())
        if busy <= 0 or self.plan is None or self._work_began is None:
            return None
        at_a_time = busy / max(1e-9, self._clock() - self._work_began)
        expected, most = self._seconds_left(self.plan)
        return expected / at_a_time, most / at_a_time

    def _seconds_a_gmac(self, what: Point | str) -> float:
        """Measured for ``what``, else for all that was."""
        own = self._rates.get(what)
        if own is not None and own.work > 0:
            return own.seconds / own.work
        rates = self._rates.values()
        return sum(r.seconds for r in rates) / sum(r.work for r in rates)

    def _seconds_left(self, plan: Plan) -> tuple[float, float]:
        expected = most = 0.0
        if self.cells is None:
            for key, epoch in self.epochs.items():
                point = point_of(self.trunks[key])
                pace = self._seconds_a_gmac(point)
                expected += pace * expected_gmacs_left(plan, point, epoch)
                most += pace * gmacs_left(plan, point, epoch)
            known = Counter(point_of(trunk) for trunk in self.trunks.values())
            for point in plan.points:
                waiting = max(0, plan.samples - known[point])
                pace = waiting * self._seconds_a_gmac(point)
                expected += pace * expected_gmacs_left(plan, point)
                most += pace * gmacs_left(plan, point)
            cells = plan.survivors * sum(
                cell_gmacs(plan, p.variant, r)
                for p, tests in plan.grid.tests.items()
                for r in tests
            )
        else:
            cells = sum(
                cell_gmacs(plan, cell.variant, cell.test_res)
                for key, cell in self.cells.items()
                if key not in self.cells_done
            )
        cells *= self._seconds_a_gmac(CELLS)
        return expected + cells, most + cells
