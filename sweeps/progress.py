"""How far a sweep is, and how long it will take: arithmetic over its events. Shows nothing.

Work is counted in GMACs, of which a training step takes three times a forward pass. The rate is
what this process really did a second; what the store already held was free and counts for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sweeps.events import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.leaderboard import Row
from sweeps.plan import Plan, Point
from trainables.evaluate import Score
from trainables.fix import CellSpec
from trainables.train import TrunkSpec


class Progress:
    """A watcher that adds up."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._began = clock()
        self._done = 0.0  # GMACs done by this process
        self.plan: Plan | None = None
        self.epochs: dict[str, int] = {}  # of trunks in training, by key
        self.trunks: dict[str, TrunkSpec] = {}
        self.ended: dict[str, str] = {}
        self.cells: dict[str, tuple[CellSpec, TrunkSpec]] | None = None
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
            case EpochEnded(trunk=trunk, report=report):
                if report.at >= 1000 * self._began and self.plan is not None:
                    self._done += self.plan.epoch_work(_point(trunk), report.epoch)
                self.epochs[trunk.key] = report.epoch
            case TrunkEnded(trunk=trunk, why=why, reports=reports):
                self.ended[trunk.key] = why
                self.epochs.pop(trunk.key, None)
                for report in reports:
                    self._see_trunk(trunk, report.val)
            case CellsPlanned(cells=cells):
                self.cells = {cell.key: (cell, trunk) for cell, trunk in cells}
            case CellBegan(cell=cell):
                self.cells_running.add(cell.key)
            case CellEnded(cell=cell, trunk=trunk, rows=rows):
                if cell.key in self.cells_running and self.plan is not None:
                    self._done += self.plan.cell_work(trunk.variant, cell.test_res)
                self.cells_running.discard(cell.key)
                self.cells_done.add(cell.key)
                for row in rows:
                    if self.best_row is None or row.hits1 > self.best_row.hits1:
                        self.best_row = row

    def _see_trunk(self, trunk: TrunkSpec, val: dict[int, Score]) -> None:
        for res, score in val.items():
            if self.best_trunk is None or score.hits1 > self.best_trunk[0].hits1:
                self.best_trunk = (score, trunk, res)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def waiting_trunks(self) -> int:
        assert self.plan is not None
        return max(0, self.plan.trunks - len(self.ended) - len(self.epochs))

    def left(self) -> tuple[float, float] | None:
        """Seconds left: expected, and at most. None before there is anything to go by."""
        if self._done <= 0 or self.plan is None:
            return None
        rate = self._done / self.elapsed
        expected, most = self._work_left(self.plan)
        return expected / rate, most / rate

    def _work_left(self, plan: Plan) -> tuple[float, float]:
        expected = most = 0.0
        if self.cells is None:
            for key, epoch in self.epochs.items():
                expected += plan.expected_work_left(_point(self.trunks[key]), epoch)
                most += plan.work_left(_point(self.trunks[key]), epoch)
            share = self.waiting_trunks / len(plan.points)  # points take turns
            expected += share * sum(plan.expected_work_left(p) for p in plan.points)
            most += share * sum(plan.work_left(p) for p in plan.points)
            survivors = min(plan.spec.fix.survivors, plan.spec.trunks.samples)
            cells = survivors * sum(
                plan.cell_work(p.variant, r) for p in plan.points for r in plan.spec.grid.test_res
            )
        else:
            cells = sum(
                plan.cell_work(trunk.variant, cell.test_res)
                for key, (cell, trunk) in self.cells.items()
                if key not in self.cells_done
            )
        return expected + cells, most + cells


def _point(trunk: TrunkSpec) -> Point:
    return Point(variant=trunk.variant, train_res=trunk.train_res)


def duration(seconds: float) -> str:
    """12 s, 3.5 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"
