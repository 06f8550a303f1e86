"""Schedule phase 1 within a budget: what is expected to gain most comes next.

Where there is no budget, every point has its first trunk before any has its second. Within one, a
point may have none. What may come next is, at every point, a new trunk, or the promotion of one
that halving would promote, or of the best that waits where no new one fits any more. Of all these
that fit to their end, cells included, that comes next from which the most improvement on the best
finished trunk is expected, if half of what is left were spent on its like: a dear trunk is compared
with the best of as many cheap ones as take as long, and not with one of them; one that takes more
than half counts in part. Repeats come when nothing else fits: those of the best trunk first.

Predicted seconds decide, and the clock: what was decided is in the journal as without a budget, so
that it stands when the sweep is continued, with a larger budget or a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sweeps.events.event_types import TrunkPaused, Watcher
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import nominal_ms
from sweeps.scheduling.budget import Budget
from sweeps.scheduling.expected_gain import Outlook, Shown
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from trainables.storage.artifact_store import Store
from trainables.storage.fenced_log import FencedLog
from trainables.training.trunk import TrunkSpec, TrunkStatus

HORIZON = 0.5  # of what is left, by which candidates are compared


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial that may come next."""

    point: Point
    trunk: str | None
    """The key of a trunk that is trained on; None: a new one is begun."""
    repeat: TrunkSpec | None = None
    """A repeat that is begun; None: it is none."""
    gain: float
    """Expected improvement, a share, by half of what is left."""


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """What all candidates of a moment have in common."""

    outlook: Outlook
    best: float
    """What val decides by of the best trunk that was trained to its end; else, chance."""
    nearest_end_s: float
    """What the trunk that waits nearest to its end needs to it; 0: one has ended."""
    results: frozenset[Point]
    """The points that have trained a trunk to its end, or are about to."""
    taken_s: float
    """Device seconds that running trials take yet."""


class BudgetedTrunks(TrunkScheduler):
    """The schedule of phase 1 within a budget; see :class:`TrunkScheduler`."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        watcher: Watcher,
        budget: Budget,
        journal: FencedLog | None = None,
    ):
        self._budget = budget
        self._stopped = set[str]()  # keys of trunks whose trials have come to the budget's end
        self._has_own_bound: dict[str, bool] = {}  # by key: whether --max-minutes-per-trial is less
        self._costs = {p: nominal_ms(plan.costs[p.variant, p.train_res]) for p in plan.points}
        super().__init__(plan, store, watcher, journal)

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, and nothing that could come next fits."""
        return super().is_over or not (self._running or self._in_order())

    def leaves_room_for(self, cell: Cell) -> bool:
        """Whether a cell may be made while trunks are trained: one that is reserved for may."""
        taken_s = self._device_s_of_running()
        return self._budget.fits_early(cell, self._results(), taken_s)

    def queue(self) -> Point | None:
        """Choose the point of the next trial to be queued; None: nothing fits for now."""
        ahead = dict(self._queued)
        for candidate in self._in_order():
            if not ahead.get(candidate.point):
                self._queued[candidate.point] += 1
                return candidate.point
            ahead[candidate.point] -= 1
        return None

    def _rate(self, point: Point) -> None:
        """Rate nothing: what comes next is weighed anew at each look, by what has been spent."""

    def urgency(self, point: Point, ahead: int = 0) -> tuple[int, float]:
        """Rate what a trial of a point would start with: the less, the sooner it should start."""
        gains = [c.gain for c in self._in_order() if c.point == point]
        return 0, -gains[ahead] if ahead < len(gains) else 0.0

    def _take(self, point: Point) -> TrunkSpec | None:
        """Choose what is best at a point of what fits; None: nothing fits now."""
        best = next((c for c in self._in_order() if c.point == point), None)
        if best is None:
            return None
        if best.repeat is not None:
            return self._begin_repeat(point, best.repeat)
        if best.trunk is None:
            return self._new_trunk(point)
        if best.trunk in self._unfinished[point]:
            self._unfinished[point].remove(best.trunk)
            return self._trunks[best.trunk]
        return self._promote(point, best.trunk)

    def allowance_s(self, trunk: TrunkSpec) -> float | None:
        """Bound the seconds of a trial that begins to train a trunk."""
        others = self._device_s_of_running(without=trunk.key)
        own = max(0.0, self._budget.allowance_s(point_of(trunk), self._results(), others))
        bound = super().allowance_s(trunk)
        self._has_own_bound[trunk.key] = bound is not None and bound < own
        return own if bound is None else min(own, bound)

    def stopped(self, trunk: TrunkSpec) -> None:
        """Let a trunk wait as it is whose trial has come to the budget's end."""
        if self._has_own_bound[trunk.key]:
            super().stopped(trunk)
            return
        self._stopped.add(trunk.key)
        self._watcher.on(TrunkPaused(trunk=trunk, after=self.epochs_reported(trunk)))

    def survivors(self) -> list[TrunkSpec]:
        """List the best trunks of each point that has trained one to its end; the best first."""
        return sorted(
            super().survivors(), key=lambda trunk: (trunk.repeat > 0, -self._merit(trunk.key)[1])
        )

    def survivors_of(self, point: Point) -> list[TrunkSpec]:
        """List the best trunks of a point: none where it has trained none to its end."""
        return super().survivors_of(point) if self._halving[point].has_finished else []

    @property
    def points_without_result(self) -> list[Point]:
        """The points that have trained no trunk to its end, in the order of the grid."""
        return [p for p in self._plan.points if not self._halving[p].has_finished]

    @property
    def trunks_undone(self) -> int:
        """How many trunks were not begun, or wait for more training; repeats included."""
        undone = 0
        for point, halving in self._halving.items():
            left = halving.to_begin + len(halving.waiting) + len(halving.running)
            undone += left + len(self._repeats_to_begin(point))
            undone += self._plan.repeats if left and not halving.has_finished else 0
        return undone

    def _goes_on_at(self, key: str) -> bool:
        """Whether a trunk that has just come to a rung is what should come next."""
        order = self._in_order()
        return bool(order) and order[0].trunk == key

    # --- what fits ------------------------------------------------------------------------------

    @property
    def _running(self) -> list[str]:
        """The keys of the trunks that trials are training."""
        waiting = {key for keys in self._unfinished.values() for key in keys} | self._stopped
        return [
            key
            for halving in self._halving.values()
            for key in halving.running
            if key not in waiting
        ]

    def _results(self) -> frozenset[Point]:
        """The points that have trained a trunk to its end, or are about to."""
        return frozenset(
            point
            for point, halving in self._halving.items()
            if halving.has_finished or len(self._rungs(point)) in halving.running.values()
        )

    def _device_s_of_running(self, without: str = "") -> float:
        """Predict the device seconds that running trials take yet, each to its next rung."""
        total = 0.0
        for key in self._running:
            if key != without:
                trunk = self._trunks[key]
                point, rung = point_of(trunk), self._halving[point_of(trunk)].running[key]
                until = self._ends(point)[rung]
                seconds = self._budget.trunk_s(point, self.epochs_reported(trunk), until)
                total += self._budget.device_s(point, seconds)
        return total

    def _in_order(self) -> list[Candidate]:
        """List what may come next and fits: of the most expected gain first."""
        shown = [
            Shown(point=point_of(self._trunks[key]), values=values)
            for key, values in self._values.items()
            if values and key in self._trunks and not self._trunks[key].repeat
        ]
        now = _Moment(
            outlook=Outlook(self._costs, self._epochs, shown),
            best=self._best_finished(),
            nearest_end_s=self._nearest_end_s(),
            results=self._results(),
            taken_s=self._device_s_of_running(),
        )
        found = [c for point in self._halving for c in self._candidates(point, now)]
        # What is best is known when nothing else is trained, nor could be.
        if not found and all(self._trunks[key].repeat for key in self._running):
            found = list(self._repeats_that_fit(now))
        return sorted(found, key=lambda candidate: -candidate.gain)

    def _repeats_that_fit(self, now: _Moment) -> Iterator[Candidate]:
        """List the repeats that fit with their cells, beside the cells of those that have begun."""
        begun = [point_of(trunk) for trunk in self._trunks.values() if trunk.repeat]
        for point in self._halving:
            repeats = self._repeats_to_begin(point)
            seconds = self._budget.trunk_s(point, 0, self._epochs[point])
            if repeats and not self._budget.fits_repeat(
                point, seconds, now.results, now.taken_s, begun
            ):
                continue
            for trunk in repeats:
                gain = self._merit(trunk.configuration)[1]
                yield Candidate(point=point, trunk=trunk.key, repeat=trunk, gain=gain)

    def _is_ready(self, point: Point, now: _Moment) -> bool:
        """Whether trunks of a point need wait no longer for the one that they start from.

        Nothing more of the smaller train resolution runs, or fits: what has finished there stands.
        """
        below = self._plan.below(point)
        if below is None or not self._waits(point):
            return True
        runs = any(key in self._halving[below].running for key in self._running)
        return not runs and next(self._candidates(below, now), None) is None

    def _candidates(self, point: Point, now: _Moment) -> Iterator[Candidate]:
        if not self._is_ready(point, now):
            return
        halving, budget, epochs = self._halving[point], self._budget, self._ends(point)[-1]
        results, taken_s = now.results, now.taken_s
        cells_s = 0.0 if point in results else budget.cells_s(point)
        horizon_s = HORIZON * budget.trial_s(point, results)
        for key in self._unfinished[point]:
            if budget.fits(
                point, budget.trunk_s(point, self._after(key), epochs), results, taken_s
            ):
                yield Candidate(point=point, trunk=key, gain=math.inf)
        # Until a trunk has been trained to its end, one that waits has to fit after a new one's
        # first rung: something is to be handed over.
        first_s = budget.trunk_s(point, 0, self._ends(point)[0]) + now.nearest_end_s
        needed_s = max(budget.trunk_s(point, 0, epochs), first_s)
        may_begin = halving.to_begin > 0 and budget.fits(point, needed_s, results, taken_s)
        # Where trunks of the point are yet to begin and none fits, halving waits for them in vain.
        waits_in_vain = halving.to_begin > 0 and not may_begin
        instead = halving.in_line()[:1] if waits_in_vain else []
        for key in halving.promotable() or instead:
            seconds = budget.trunk_s(point, self._after(key), epochs)
            if budget.fits(point, seconds, results, taken_s):
                guess = now.outlook.trunk(Shown(point=point, values=self._values[key]))
                tries = min(1.0, horizon_s / (seconds + cells_s))
                gain = guess.improvement(now.best, tries)
                yield Candidate(point=point, trunk=key, gain=gain)
        if may_begin:
            tries = min(halving.to_begin, horizon_s / (self._expected_s(point) + cells_s))
            gain = now.outlook.next_trunk(point).improvement(now.best, tries)
            yield Candidate(point=point, trunk=None, gain=gain)

    def _nearest_end_s(self) -> float:
        """Predict what the trunk that waits nearest to its end needs to it; 0: one has ended."""
        if any(halving.has_finished for halving in self._halving.values()):
            return 0.0
        waiting = [
            self._budget.trunk_s(point, self._after(key), self._epochs[point])
            for point, halving in self._halving.items()
            for key in halving.waiting
        ]
        return min(waiting, default=0.0)

    def _after(self, key: str) -> int:
        """Count the epochs of a trunk that are done."""
        return max(self._reports.get(key, {}), default=0) or max(self._values[key], default=0)

    def _expected_s(self, point: Point) -> float:
        """Expect the seconds of a new trunk: each rung lets 1/reduction of them go on."""
        share, total, after = 1.0, 0.0, 0
        for until in self._ends(point):
            total += share * self._budget.trunk_s(point, after, until)
            share, after = share / self._plan.spec.halving.reduction, until
        return total

    def _ends(self, point: Point) -> tuple[int, ...]:
        """List the epochs that a trial of a point may end at: the rungs, and the last one."""
        epochs = self._plan.epochs_of(self.parent_at(point) is not None)
        return self._plan.spec.rungs_to(epochs)

    def _best_finished(self) -> float:
        """What val decides by of the best trunk that was trained to its end; else, chance."""
        ended = [
            self._merit(key)[1]
            for key, status in self._ended.items()
            if status == TrunkStatus.FINISHED
        ]
        return max(ended, default=1 / len(self._plan.classes))
