"""Schedule phase 1 within a budget: what is expected to gain most comes next.

Where there is no budget, every point has its first trunk before any has its second. Within one, a
point may have none. What may come next is, at every point, a new trunk, or the promotion of one
that halving would promote, or of the best that waits where no new one fits any more. Of all these
that fit to their end, cells included, that comes next from which the most improvement on the best
finished trunk is expected, if half of what is left were spent on its like: a dear trunk is compared
with the best of as many cheap ones as take as long, and not with one of them; one that takes more
than half counts in part. Repeats come when nothing else fits: those of the best trunk first.

What a point's next trial would gain is weighed anew when something happens at the point, and when
it comes first. All are weighed anew once what they have in common has changed (:class:`.Moment`):
so the points of a large sweep are not gone through at each look.

Predicted seconds decide, and the clock: what was decided is in the journal as without a budget, so
that it stands when the sweep is continued, with a larger budget or a smaller one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from sweeps.events.event_types import TrunkPaused, Watcher
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import nominal_ms
from sweeps.scheduling.budget import NOTHING, STALE, Budget, Moment
from sweeps.scheduling.expected_gain import Outlook, Shown
from sweeps.scheduling.journal import Decided, Promoted
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from trainables.storage.artifact_store import Store
from trainables.storage.fenced_log import FencedLog
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

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
        self._has_own_bound: dict[str, bool] = {}  # by key: whether --max-minutes-per-trial is less
        self._shown = 0
        self._handed_out: dict[str, None] = {}  # keys of the trunks that this process has begun
        # The points that have trained a trunk to its end, or are about to.
        self._results, self._has_finished = frozenset[Point](), False
        self._nearest_s: dict[Point, float] = {}  # to the end of the trunk that waits nearest to it
        self._finished: dict[str, float] = {}  # what val decides by, by key of trunks at their end
        self._weighed: Moment | None = None  # when all candidates were
        self._changes = self._weighed_changes = 0
        super().__init__(plan, store, watcher, journal)

    def _replay(self) -> None:
        costs = self._plan.costs
        by_point = {p: nominal_ms(costs[p.variant, p.train_res]) for p in self._plan.points}
        self._outlook = Outlook(by_point, self._epochs)
        super()._replay()

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, and nothing that could come next fits."""
        if super().is_over:
            return True
        now = self._moment()
        return not (self._running or self._first(now) or self._repeats_that_fit(now))

    def leaves_room_for(self, cell: Cell) -> bool:
        """Whether a cell may be made while trunks are trained: one that is reserved for may."""
        return self._budget.fits_early(cell, self._results, self._device_s_of_running())

    def queue(self) -> Point | None:
        """Choose the point of the next trial to be queued; None: nothing fits for now."""
        now = self._moment()
        point = self._next_point(now) or self._next_repeat(now)
        if point is not None:
            self._queued[point] += 1
            self._rate(point)
        return point

    def _next_point(self, now: Moment) -> Point | None:
        """Find the point whose next trial, behind those that are queued, gains most."""
        if self._weighed is None or not now.is_like(self._weighed, len(self._halving)):
            self._weigh_all(now)
        assert self._weighed is not None
        found = self._best_rated(now)
        may_fit_again = self._changes != self._weighed_changes or now.has_more_than(self._weighed)
        may_fit_again |= bool(self._plan.cascading)  # where less fits below, more may begin above
        if found is None and may_fit_again:
            self._weigh_all(now)
            found = self._best_rated(now)
        return found

    def _best_rated(self, now: Moment) -> Point | None:
        """Find the point that is rated best, each that comes first being rated anew; it stays.

        Others behind it that were rated better by less than STALE are not rated anew.
        """
        while self._wanted:
            _, _, number, point = heappop(self._wanted)
            if number == self._newest[point]:
                gain = self._rate_at(point, now)
                if gain is not None and gain >= (1 - STALE) * self._highest_rating:
                    return point
        return None

    @property
    def _highest_rating(self) -> float:
        """The gain that was expected of the point that is rated best, if not since then."""
        return -self._wanted[0][0][1]

    def _first(self, now: Moment) -> Candidate | None:
        """Find what gains most of all, whether a trial is queued for it or not."""
        top = self._next_point(now)
        points = [p for p, queued in self._queued.items() if queued] + ([top] if top else [])
        firsts = [c for point in points for c in self._in_order(point, now)[:1]]
        return min(firsts, key=lambda c: (-c.gain, self._place[c.point]), default=None)

    def _next_repeat(self, now: Moment) -> Point | None:
        """Find the point of the best repeat behind those that are queued; None: none fits."""
        ahead = dict(self._queued)
        for candidate in self._repeats_that_fit(now):
            if not ahead.get(candidate.point):
                return candidate.point
            ahead[candidate.point] -= 1
        return None

    def _weigh_all(self, now: Moment) -> None:
        self._weighed, self._weighed_changes = now, self._changes
        self._wanted.clear()
        for point in self._halving:
            if point not in self._settled:
                self._see_nearest(point)
                self._rate_at(point, now)

    def _rate(self, point: Point) -> None:
        """Rate what the next trial of a point would start with, now that something has changed."""
        self._changes += 1
        halving, last = self._halving[point], len(self._rungs(point))
        nears_end = halving.has_finished or last in halving.running.values()
        if nears_end != (point in self._results):
            self._results ^= {point}
        if not self._queued[point]:
            del self._queued[point]
        self._has_finished |= halving.has_finished
        self._see_nearest(point)
        if self._weighed is not None:  # else all are yet to be
            self._rate_at(point, self._moment())

    def _see_nearest(self, point: Point) -> None:
        """Predict what the trunk of a point that waits nearest to its end needs to it."""
        self._nearest_s.pop(point, None)
        if not self._has_finished and (nearest := self._halving[point].in_line()[:1]):
            after, epochs = self._after(nearest[0]), self._epochs[point]
            self._nearest_s[point] = self._budget.trunk_s(point, after, epochs)

    def _rate_at(self, point: Point, now: Moment) -> float | None:
        """Rate a point by the gain of what comes next there; None: nothing does."""
        self._newest[point] += 1
        found, queued = self._in_order(point, now), self._queued[point]
        if queued >= len(found):
            return None
        gain, number = found[queued].gain, self._newest[point]
        heappush(self._wanted, ((0, -gain), self._place[point], number, point))
        return gain

    def urgency(self, point: Point, ahead: int = 0) -> tuple[int, float]:
        """Rate what a trial of a point would start with: the less, the sooner it should start."""
        found = self._offered(point)
        return 0, -found[ahead].gain if ahead < len(found) else 0.0

    def _take(self, point: Point) -> TrunkSpec | None:
        """Choose what is best at a point of what fits; None: nothing fits now."""
        best = next(iter(self._offered(point)), None)
        trunk = None if best is None else self._take_candidate(best)
        if trunk is not None:
            self._handed_out[trunk.key] = None
        return trunk

    def _take_candidate(self, best: Candidate) -> TrunkSpec | None:
        point = best.point
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
        room = self._budget.room(self._results, others)
        own = max(0.0, self._budget.allowance_s(point_of(trunk), room))
        bound = super().allowance_s(trunk)
        self._has_own_bound[trunk.key] = bound is not None and bound < own
        return own if bound is None else min(own, bound)

    def report(self, trunk: TrunkSpec, report: EpochReport) -> bool:
        """Take the report of an epoch; see :meth:`TrunkScheduler.report`."""
        goes_on = super().report(trunk, report)
        if not goes_on:
            self._handed_out.pop(trunk.key, None)
        return goes_on

    def failed(self, trunk: TrunkSpec, error: str) -> None:
        """Give the trunk up; see :meth:`TrunkScheduler.failed`."""
        self._handed_out.pop(trunk.key, None)
        super().failed(trunk, error)

    def stopped(self, trunk: TrunkSpec) -> None:
        """Let a trunk wait as it is whose trial has come to the budget's end."""
        if self._has_own_bound[trunk.key]:
            super().stopped(trunk)
            return
        self._handed_out.pop(trunk.key, None)
        self._changes += 1
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
        self._rate(point_of(self._trunks[key]))
        first = self._first(self._moment())
        return first is not None and first.trunk == key

    # --- what is known at a moment ---------------------------------------------------------------

    def _moment(self) -> Moment:
        return Moment(
            best=max(self._finished.values(), default=1 / len(self._plan.classes)),
            nearest_end_s=0.0 if self._has_finished else min(self._nearest_s.values(), default=0.0),
            room=self._budget.room(self._results, self._device_s_of_running()),
            shown=self._shown,
            learnt=self._budget.durations.learnt,
        )

    def _note(self, key: str, report: EpochReport) -> None:
        super()._note(key, report)
        self._show(key)

    def _recall(self, line: Decided | Promoted) -> None:
        super()._recall(line)
        self._show(line.trunk)

    def _set_ended(self, key: str, status: TrunkStatus) -> None:
        super()._set_ended(key, status)
        if status == TrunkStatus.FINISHED:
            self._finished[key] = self._merit(key)[1]

    def _show(self, key: str) -> None:
        """Take note of what a trunk has shown by now."""
        trunk, values = self._trunks[key], self._values[key]
        if values and not trunk.repeat:
            self._shown += 1
            self._outlook.show(key, Shown(point=point_of(trunk), values=values))
        if key in self._finished:
            self._finished[key] = self._merit(key)[1]

    @property
    def _running(self) -> list[str]:
        """The keys of the trunks that trials are training."""
        return [
            key
            for key in self._handed_out
            if key in self._halving[point_of(self._trunks[key])].running
        ]

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

    # --- what fits ------------------------------------------------------------------------------

    def _in_order(self, point: Point, now: Moment) -> list[Candidate]:
        """List what may come next at a point and fits: of the most expected gain first."""
        return sorted(self._candidates(point, now), key=lambda candidate: -candidate.gain)

    def _offered(self, point: Point) -> list[Candidate]:
        """List as :meth:`_in_order`; where nothing fits at any point, repeats."""
        now = self._moment()
        found = self._in_order(point, now)
        return found or [c for c in self._repeats_that_fit(now) if c.point == point]

    def _repeats_that_fit(self, now: Moment) -> list[Candidate]:
        """List the repeats that fit with their cells, beside the cells of those that have begun.

        There are none before nothing else is trained, nor could be: what is best is known then.
        """
        if self._plan.spec.search.repeat == 1 or self._first(now) is not None:
            return []
        if not all(self._trunks[key].repeat for key in self._running):
            return []
        begun = NOTHING
        for trunk in self._trunks.values():
            if trunk.repeat:
                begun += self._budget.repeat_cells(point_of(trunk))
        found = []
        for point in self._halving:
            repeats = self._repeats_to_begin(point)
            seconds = self._budget.trunk_s(point, 0, self._epochs[point])
            if repeats and self._budget.fits_repeat(point, seconds, now.room, begun):
                for trunk in repeats:
                    gain = self._merit(trunk.configuration)[1]
                    found.append(Candidate(point=point, trunk=trunk.key, repeat=trunk, gain=gain))
        return sorted(found, key=lambda candidate: -candidate.gain)

    def _is_ready(self, point: Point, now: Moment) -> bool:
        """Whether trunks of a point need wait no longer for the one that they start from.

        Nothing more of the smaller train resolution runs, or fits: what has finished there stands.
        """
        below = self._plan.below(point)
        if below is None or not self._waits(point):
            return True
        runs = any(key in self._halving[below].running for key in self._running)
        return not runs and next(self._candidates(below, now), None) is None

    def _candidates(self, point: Point, now: Moment) -> Iterator[Candidate]:
        if not self._is_ready(point, now):
            return
        halving, budget, room = self._halving[point], self._budget, now.room
        epochs = self._ends(point)[-1]
        cells_s = 0.0 if point in room.results else budget.cells_s(point)
        horizon_s = HORIZON * budget.trial_s(point, room)
        for key in self._unfinished[point]:
            if budget.fits(point, budget.trunk_s(point, self._after(key), epochs), room):
                yield Candidate(point=point, trunk=key, gain=math.inf)
        # Until a trunk has been trained to its end, one that waits has to fit after a new one's
        # first rung: something is to be handed over.
        first_s = budget.trunk_s(point, 0, self._ends(point)[0]) + now.nearest_end_s
        needed_s = max(budget.trunk_s(point, 0, epochs), first_s)
        may_begin = halving.to_begin > 0 and budget.fits(point, needed_s, room)
        # Where trunks of the point are yet to begin and none fits, halving waits for them in vain.
        waits_in_vain = halving.to_begin > 0 and not may_begin
        instead = halving.in_line()[:1] if waits_in_vain else []
        for key in self._best_of_rungs(point, halving.promotable() or instead):
            seconds = budget.trunk_s(point, self._after(key), epochs)
            if budget.fits(point, seconds, room):
                guess = self._outlook.trunk(Shown(point=point, values=self._values[key]))
                tries = min(1.0, horizon_s / (seconds + cells_s))
                gain = guess.improvement(now.best, tries)
                yield Candidate(point=point, trunk=key, gain=gain)
        if may_begin:
            tries = min(halving.to_begin, horizon_s / (self._expected_s(point) + cells_s))
            gain = self._outlook.next_trunk(point).improvement(now.best, tries)
            yield Candidate(point=point, trunk=None, gain=gain)

    def _best_of_rungs(self, point: Point, keys: Sequence[str]) -> Iterator[str]:
        """Leave out those that others of their rung precede, as many as trials can be queued of.

        Of one rung the best has the most to gain.
        """
        seen = Counter[int]()
        for key in keys:
            rung = self._halving[point].waiting[key]
            seen[rung] += 1
            if seen[rung] <= self._queued[point] + 1:
                yield key

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
        return self._plan.rungs_to(epochs)
