"""Compute from events how far a sweep is, and how long it will take. Shows nothing.

What is left is counted by point and epoch, and by kind of cell, so that telling the time left takes
no longer after ten thousand trunks than after ten.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from sweeps.events.durations import Durations
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
from sweeps.planning.workload import CellKind, expected_trunks, planned_cells, planned_trunks
from sweeps.selection.leaderboard import Row
from trainables.evaluation.class_metrics import Metric
from trainables.evaluation.metrics import Score
from trainables.training.trunk import TrunkSpec, trained_epochs


class _Epochs:
    """The epochs of a point's trunks: how many trunks have trained each, and will never.

    Args:
        epochs: of a trunk that is not cut, as planned.
    """

    def __init__(self, epochs: int):
        self.trained = [0] * (epochs + 1)
        self.given_up = [0] * (epochs + 1)

    def lengthen(self, epochs: int) -> None:
        """A trunk of the point is trained for so many epochs, perhaps more than was planned."""
        more = [0] * (epochs + 1 - len(self.trained))
        self.trained += more
        self.given_up += more

    def train(self, after: int, epoch: int) -> None:
        """A trunk that had trained ``after`` epochs has trained ``epoch`` now."""
        for number in range(after + 1, epoch + 1):
            self.trained[number] += 1

    def give_up(self, epoch: int) -> None:
        """A trunk has ended after ``epoch``."""
        for number in range(epoch + 1, len(self.given_up)):
            self.given_up[number] += 1


class Progress:
    """A watcher that counts what is done, and estimates the time that is left.

    Args:
        clock: tells the time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._process_began = clock()
        self._work_began: float | None = None
        self.plan: Plan | None = None
        self._durations: Durations | None = None
        self.epochs: dict[str, int] = {}  # epochs done by key, for trunks in training
        self.paused: dict[str, int] = {}  # the same, for trunks that wait at rungs
        self.trunks: dict[str, TrunkSpec] = {}  # all that have begun or ended, by key
        self._firsts: dict[Point, TrunkSpec] = {}  # of each point
        self.ended: dict[str, str] = {}  # how trunks ended, by key
        self._trained: dict[str, int] = defaultdict(int)  # epochs by key
        self._epochs: dict[Point, _Epochs] = {}
        self.cells: dict[str, Cell] = {}  # by key, those that are planned by now
        self.are_all_planned = False  # as they are when phase 1 is over
        self._cells_left: Counter[CellKind] = Counter()
        self.cells_done: set[str] = set()
        self.cells_running: set[str] = set()
        self.best_trunk: tuple[Score, TrunkSpec, int] | None = None  # the int: its test res, px
        self.best_row: Row | None = None
        self._bound: Callable[[float], float] = lambda _: math.inf

    def is_bounded_by(self, left_s: Callable[[float], float]) -> None:
        """Let no estimate be above what is left by another account, as that of a budget.

        Args:
            left_s: tells the seconds that are left at a pace: a share of the one until now.
        """
        self._bound = left_s

    def on(self, event: Event) -> None:
        """Count an event, and learn how long the step that it ends has taken."""
        if isinstance(event, SweepBegan):
            self._begin_sweep(event)
        if self._durations is not None:
            self._durations.on(event)
        match event:
            case TrunkBegan(trunk=trunk, after=after):
                self.paused.pop(trunk.key, None)
                self.epochs[trunk.key] = after
                self._reach(trunk, after)
                self._begin_work()
            case TrunkPaused(trunk=trunk, after=after):
                self.epochs.pop(trunk.key, None)
                self.paused[trunk.key] = after
                self._reach(trunk, after)
            case EpochEnded(trunk=trunk, report=report):
                self.epochs[trunk.key] = report.epoch
                self._reach(trunk, report.epoch)
            case TrunkEnded(trunk=trunk, status=status, reports=reports):
                self._reach(trunk, trained_epochs(reports))
                if trunk.key not in self.ended and (epochs := self._epochs.get(point_of(trunk))):
                    epochs.give_up(self._trained[trunk.key])
                self.ended[trunk.key] = status
                self.epochs.pop(trunk.key, None)
                self.paused.pop(trunk.key, None)
                for report in reports:
                    self._compare_with_best_trunk(trunk, report.val)
            case CellsPlanned(cells=cells, is_last=is_last):
                if self.are_all_planned:  # something was lost, and all is gone through again
                    self.cells, self.cells_done = {}, set()
                self.cells |= {cell.key: cell for cell in cells}
                self.are_all_planned = is_last
                if is_last:
                    left = (c for c in self.cells.values() if c.key not in self.cells_done)
                    self._cells_left = Counter(map(_kind_of, left))
            case CellBegan(cell=cell):
                self.cells_running.add(cell.key)
                if cell.key in self.cells_done:  # its files were lost: it is made again
                    self.cells_done.remove(cell.key)
                    self._cells_left[_kind_of(cell)] += 1
                self._begin_work()
            case CellEnded(cell=cell, rows=rows):
                self.cells_running.discard(cell.key)
                if cell.key not in self.cells_done:
                    self.cells_done.add(cell.key)
                    self._cells_left[_kind_of(cell)] -= 1
                for row in rows:
                    if self.best_row is None or self._value(row) > self._value(self.best_row):
                        self.best_row = row

    def _begin_sweep(self, event: SweepBegan) -> None:
        plan = self.plan = event.plan
        self._durations = Durations(plan, event.kept, self._clock)
        self._epochs = {point: _Epochs(plan.epochs_at(point)) for point in plan.points}
        self.cells, self.cells_done, self._cells_left = {}, set(), planned_cells(plan)
        self.are_all_planned = False

    def _begin_work(self) -> None:
        if self._work_began is None:
            self._work_began = self._clock()

    def _reach(self, trunk: TrunkSpec, epoch: int) -> None:
        """Count the epochs that a trunk has newly trained, up to this one."""
        self.trunks[trunk.key] = trunk
        self._firsts.setdefault(point_of(trunk), trunk)
        before = self._trained[trunk.key]
        if epoch > before and (epochs := self._epochs.get(point_of(trunk))) is not None:
            epochs.lengthen(trunk.recipe.epochs)
            epochs.train(before, epoch)
            self._trained[trunk.key] = epoch

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
    def planned_trunks(self) -> int:
        """The number of trunks of the plan, by what those start from that have begun."""
        assert self.plan is not None
        return planned_trunks(self.plan, self._firsts.values())

    @property
    def waiting_trunks(self) -> int:
        """The number of trunks of the plan that have not begun."""
        return max(0, self.planned_trunks - len(self.trunks))

    def left(self) -> tuple[float, float] | None:
        """Estimate the seconds that are left.

        Returns:
            Expected seconds, if each rung lets 1/reduction of a point's trunks go on, and most, if
            no more are cut, neither above what the sweep is bounded by; None before anything has
            been timed.
        """
        durations = self._durations
        if durations is None or self._work_began is None or not durations.timed_s:
            return None
        at_a_time = pace = durations.timed_s / max(1e-9, self._clock() - self._work_began)
        if self.are_all_planned:  # The last cells may be fewer than the trials that ran at a time.
            at_a_time = min(pace, max(1, self._cells_left.total()))
        expected, most = (0.0, 0.0) if self.are_all_planned else self._trunk_seconds_left()
        cells = sum(n * durations.cell_s(*kind) for kind, n in self._cells_left.items())
        bound = max(0.0, self._bound(at_a_time / pace))
        return min(bound, (expected + cells) / at_a_time), min(bound, (most + cells) / at_a_time)

    def _trunk_seconds_left(self) -> tuple[float, float]:
        """Return the seconds of trunks, one trial at a time: expected, and most."""
        assert self.plan is not None and self._durations is not None
        plan, durations = self.plan, self._durations
        expected = most = 0.0
        for point, epochs in self._epochs.items():
            own, cut, planned = 0.0, 0.0, plan.trunks_at(point)
            has_begun = epochs.trained[1] + epochs.given_up[1] if len(epochs.trained) > 1 else 0
            if has_begun < plan.samples_at(point) and (count := durations.probes_left(point)):
                own = cut = count * durations.probe_s(point)
            for epoch in range(1, len(epochs.trained)):
                seconds = durations.epoch_s(point, epoch)
                trained, given_up = epochs.trained[epoch], epochs.given_up[epoch]
                own += seconds * max(0, planned - trained - given_up)
                cut += seconds * max(0, expected_trunks(plan, point, epoch) - trained)
            most += own
            expected += min(own, cut)
        return expected, most


def _kind_of(cell: Cell) -> CellKind:
    return cell.variant, cell.test_res, cell.spec.arms
