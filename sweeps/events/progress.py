"""Compute from events how far a sweep is, and how long it will take. Shows nothing.

Work is counted in GMACs, see :mod:`sweeps.planning.workload`. Seconds a GMAC are measured as the
sweep runs: for each point on its own, as small nets at small resolutions take longer than their
GMACs say, and for cells. What the store already held took no time, and is not measured.
"""

from __future__ import annotations

import time
from collections import defaultdict
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
    TrunkPaused,
)
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_gmacs, epoch_gmacs, expected_gmacs_left, gmacs_left
from sweeps.selection.leaderboard import Row
from trainables.evaluation.class_metrics import Metric
from trainables.evaluation.metrics import Score
from trainables.training.trunk import TrunkSpec, trained_epochs

CELLS = "cells"  # The key of the rate of cells, beside the points' rates.


class _Rate:
    """Seconds and GMACs of the work that a rate is measured on."""

    def __init__(self) -> None:
        self.seconds = self.gmacs = 0.0

    def add(self, seconds: float, gmacs: float) -> None:
        self.seconds += seconds
        self.gmacs += gmacs


class Progress:
    """A watcher that counts what is done, and estimates the time that is left.

    Args:
        clock: tells the time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._process_began = clock()
        self._work_began: float | None = None
        self._rates: dict[Point | str, _Rate] = defaultdict(_Rate)
        self._step_began: dict[str, float] = {}  # time by key, for trunks and cells that run
        self.plan: Plan | None = None
        self.epochs: dict[str, int] = {}  # epochs done by key, for trunks in training
        self.paused: dict[str, int] = {}  # the same, for trunks that wait at rungs
        self.trunks: dict[str, TrunkSpec] = {}  # all that have begun or ended, by key
        self.ended: dict[str, str] = {}  # how trunks ended, by key
        self._epochs_of_ended: dict[str, int] = {}  # by key
        self.cells: dict[str, Cell] | None = None  # all, by key; None before phase 2
        self.cells_done: set[str] = set()
        self.cells_running: set[str] = set()
        self.best_trunk: tuple[Score, TrunkSpec, int] | None = None  # the int: its test res, px
        self.best_row: Row | None = None

    def on(self, event: Event) -> None:
        """Count an event, and measure how long the step that it ends has taken."""
        match event:
            case SweepBegan(plan=plan):
                self.plan = plan
            case TrunkBegan(trunk=trunk, after=after):
                self.trunks[trunk.key] = trunk
                self.paused.pop(trunk.key, None)
                self.epochs[trunk.key] = after
                self._begin(trunk.key)
            case TrunkPaused(trunk=trunk, after=after):
                self.trunks[trunk.key] = trunk
                self.epochs.pop(trunk.key, None)
                self.paused[trunk.key] = after
            case EpochEnded(trunk=trunk, report=report):
                # An older report is one of the store's, which took no time now.
                if report.at >= 1000 * self._process_began and self.plan is not None:
                    gmacs = epoch_gmacs(self.plan, point_of(trunk), report.epoch)
                    self._measure(trunk.key, point_of(trunk), gmacs)
                self._step_began[trunk.key] = self._clock()
                self.epochs[trunk.key] = report.epoch
            case TrunkEnded(trunk=trunk, status=status, reports=reports):
                self.trunks[trunk.key] = trunk
                self.ended[trunk.key] = status
                self._epochs_of_ended[trunk.key] = trained_epochs(reports)
                self.epochs.pop(trunk.key, None)
                self.paused.pop(trunk.key, None)
                for report in reports:
                    self._compare_with_best_trunk(trunk, report.val)
            case CellsPlanned(cells=cells):
                self.cells = {cell.key: cell for cell in cells}
            case CellBegan(cell=cell):
                self.cells_running.add(cell.key)
                self._begin(cell.key)
            case CellEnded(cell=cell, rows=rows):
                if cell.key in self.cells_running and rows and self.plan is not None:
                    gmacs = cell_gmacs(self.plan, cell.variant, cell.test_res)
                    self._measure(cell.key, CELLS, gmacs)
                self.cells_running.discard(cell.key)
                self.cells_done.add(cell.key)
                for row in rows:
                    if self.best_row is None or self._value(row) > self._value(self.best_row):
                        self.best_row = row

    def _begin(self, key: str) -> None:
        self._step_began[key] = self._clock()
        if self._work_began is None:
            self._work_began = self._clock()

    def _measure(self, key: str, kind: Point | str, gmacs: float) -> None:
        """Add the step of ``key`` that ends now to the rate of ``kind``."""
        seconds = self._clock() - self._step_began.get(key, self._clock())
        self._rates[kind].add(seconds, gmacs)

    def _compare_with_best_trunk(self, trunk: TrunkSpec, val: dict[int, Score]) -> None:
        for res, score in val.items():
            best = self.best_trunk
            if best is None or self._value(score) > self._value(best[0]):
                self.best_trunk = (score, trunk, res)

    def _value(self, scored: Row | Score) -> float:
        return scored.value(self.metric)

    @property
    def metric(self) -> Metric:
        """What val decides by."""
        return "top1" if self.plan is None else self.plan.metric

    @property
    def elapsed(self) -> float:
        """Seconds since this process began."""
        return self._clock() - self._process_began

    @property
    def waiting_trunks(self) -> int:
        """The number of trunks of the plan that have not begun."""
        assert self.plan is not None
        return max(0, self.plan.trunks - len(self.trunks))

    def left(self) -> tuple[float, float] | None:
        """Estimate the seconds that are left.

        Returns:
            Expected seconds, if each rung lets 1/reduction of a point's trunks go on, and most, if
            no more are cut; None before anything has been measured.
        """
        busy = sum(rate.seconds for rate in self._rates.values())
        if busy <= 0 or self.plan is None or self._work_began is None:
            return None
        at_a_time = busy / max(1e-9, self._clock() - self._work_began)
        expected, most = self._seconds_left(self.plan)
        return expected / at_a_time, most / at_a_time

    def _seconds_a_gmac(self, kind: Point | str) -> float:
        """Return the rate that was measured for ``kind``, or else over all work."""
        own = self._rates.get(kind)
        if own is not None and own.gmacs > 0:
            return own.seconds / own.gmacs
        rates = self._rates.values()
        return sum(r.seconds for r in rates) / sum(r.gmacs for r in rates)

    def _seconds_left(self, plan: Plan) -> tuple[float, float]:
        """Return the seconds of all work that is left, one trial at a time: expected, and most."""
        expected, most = self._trunk_seconds_left(plan) if self.cells is None else (0.0, 0.0)
        cells = self._seconds_a_gmac(CELLS) * self._cell_gmacs_left(plan)
        return expected + cells, most + cells

    def _trunk_seconds_left(self, plan: Plan) -> tuple[float, float]:
        open_epochs: dict[Point, list[int]] = {point: [] for point in plan.points}
        ended_epochs: dict[Point, list[int]] = {point: [] for point in plan.points}
        for key, trunk in self.trunks.items():
            if key in self.ended:
                ended_epochs[point_of(trunk)].append(self._epochs_of_ended[key])
            else:
                epoch = self.epochs.get(key, self.paused.get(key, 0))
                open_epochs[point_of(trunk)].append(epoch)
        expected = most = 0.0
        for point, done in open_epochs.items():
            begun = [*done, *ended_epochs[point]]
            gmacs = max(0, plan.samples - len(begun)) * gmacs_left(plan, point)
            gmacs += sum(gmacs_left(plan, point, epoch) for epoch in done)
            pace = self._seconds_a_gmac(point)
            most += pace * gmacs
            expected += pace * min(gmacs, expected_gmacs_left(plan, point, begun))
        return expected, most

    def _cell_gmacs_left(self, plan: Plan) -> float:
        if self.cells is None:
            untouched = sum(
                cell_gmacs(plan, trunk.variant, res, plan.arms_of(trunk))
                for trunk in plan.untouched()
                for res, _ in plan.grid.untouched_cells(trunk.variant)
            )
            return untouched + plan.survivors * sum(
                cell_gmacs(plan, point.variant, res)
                for point in plan.points
                for res, _ in plan.grid.cells(point)
            )
        return sum(
            cell_gmacs(plan, cell.variant, cell.test_res, cell.spec.arms)
            for key, cell in self.cells.items()
            if key not in self.cells_done
        )
