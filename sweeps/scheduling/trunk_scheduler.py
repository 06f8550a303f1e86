"""Schedule phase 1: decide which trunk comes next and which goes on. Knows no processes.

A trial trains a trunk from one rung on. Its point, and so what it asks of the cluster, is chosen
when it is queued; which of the point's trunks it trains, when it starts: one that an earlier
process left unfinished, else one that is promoted, else a new one, whose hyperparameters are
proposed with all that is known by then.

Every decision is in the journal before it is acted on. A sweep whose driver was killed thus goes on
from where it stood: what was proposed is proposed again, and what was cut stays cut.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from heapq import heappop, heappush
from typing import Any

from sweeps.events.event_types import (
    EpochEnded,
    TrialRetried,
    TrunkBegan,
    TrunkEnded,
    TrunkPaused,
    Watcher,
)
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw
from sweeps.scheduling.early_end import early_end_in_words
from sweeps.scheduling.journal import Decided, Promoted, asked, read_journal
from sweeps.scheduling.proposals import propose
from sweeps.scheduling.repair import discard_trunk
from sweeps.scheduling.trunk_results import TrunkResults, status_after
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.fenced_log import FencedLog, fenced_log
from trainables.storage.files import write_text
from trainables.training.trunk import (
    EpochReport,
    Parent,
    TrunkSpec,
    TrunkStatus,
    finalize_trunk,
    recorded_reports,
)
from trainables.transforms.eval_transform import EvalTransform

log = logging.getLogger("fixres")


class TrunkScheduler(TrunkResults):
    """The schedule of phase 1: it hands out trunks, and decides by their reports which go on.

    It begins where the journal in the store ends.

    Args:
        watcher: gets an event for each change.
        journal: where decisions are written, and refused where another driver has taken over; None:
            the store's, as it is now.
    """

    def __init__(
        self, plan: Plan, store: Store, watcher: Watcher, journal: FencedLog | None = None
    ):
        super().__init__(plan)
        self._store, self._watcher = store, watcher
        self._journal = journal or fenced_log(store.journal)  # before it is read
        # By point: keys that an earlier process left unfinished, and of those that may go on now.
        self._unfinished: dict[Point, list[str]] = {point: [] for point in self._halving}
        self._promotable: dict[Point, list[str]] = {}
        self._repeatable: dict[Point, list[TrunkSpec]] = {}  # repeats that may begin now
        self._queued: Counter[Point] = Counter()  # trials that have not started
        self._settled: dict[Point, None] = {}  # in the order in which they were
        self._place = {point: place for place, point in enumerate(self._halving)}
        # Points that a trial can be queued of; an entry counts while it is its point's newest.
        self._wanted: list[tuple[tuple[int, float], int, int, Point]] = []
        self._newest: Counter[Point] = Counter()
        self._above: dict[Point, list[Point]] = {point: [] for point in self._halving}
        for point in self._halving:
            if (below := plan.below(point)) is not None:
                self._above[below].append(point)
        self._replay()

    # --- what comes next ------------------------------------------------------------------------

    def val_transforms(self, trunk: TrunkSpec) -> tuple[EvalTransform, ...]:
        """List the transforms of val that the trunk is scored with at its rungs."""
        return self._plan.val_transforms(point_of(trunk))

    @property
    def is_over(self) -> bool:
        """Whether every trunk of the plan has been proposed and has ended."""
        return len(self.settled) == len(self._halving)

    @property
    def settled(self) -> Collection[Point]:
        """The points whose trunks have all ended, repeats too, in the order in which they did.

        Which of their trunks survive is decided.
        """
        return self._settled.keys()

    def leaves_room_for(self, cell: Cell) -> bool:
        """Whether a cell may be made while trunks are trained."""
        return True

    @property
    def early_end(self) -> str:
        """Say what ended early as the ranking no longer changed; empty: it is not asked for."""
        return early_end_in_words(self._halving.values())

    def queue(self) -> Point | None:
        """Choose the point of the next trial to be queued.

        Trunks that were left unfinished come first, then promotions from the highest rung down,
        those from the first once all of a point have come to it, then new trunks: each point has
        its first before any has its second; then repeats. Among equals the dearest point is first,
        as its trunks take longest.

        Returns:
            The point; None: there is nothing more to be queued for now.
        """
        while self._wanted:
            _, _, number, point = heappop(self._wanted)
            if number == self._newest[point]:
                self._queued[point] += 1
                self._rate(point)
                return point
        return None

    def _rate(self, point: Point) -> None:
        """Rate what the next trial of a point would start with, now that something has changed."""
        self._newest[point] += 1
        queued = self._queued[point]
        if queued < self._startable(point):
            urgency, number = self.urgency(point, queued), self._newest[point]
            heappush(self._wanted, (urgency, self._place[point], number, point))

    def urgency(self, point: Point, ahead: int = 0) -> tuple[int, float]:
        """Rate what a trial of a point would start with: the less, the sooner it should start.

        Args:
            ahead: trials of the point that start before.
        """
        ahead -= len(self._unfinished[point])
        if ahead < 0:
            return 0, 0
        promotable, halving = self._promotable[point], self._halving[point]
        if ahead < len(promotable):
            return 1, -halving.waiting[promotable[ahead]]
        if self._repeatable[point]:
            return 3, 0
        round_ = self._begun(point) + ahead - len(promotable)
        return 2, round_ + self._plan.samples * len(self._smaller.get(point.variant, ()))

    def begin(self, point: Point) -> TrunkSpec | None:
        """Hand out the trunk that a queued trial of a point is to train, as it starts.

        Returns:
            The trunk; None: the search proposed nothing but what it had proposed before.
        """
        self._queued[point] -= 1
        trunk = self._take(point)
        self._settle(point)
        if trunk is not None:
            rung = self._halving[point].rung_of(trunk.key)
            after = 0 if rung is None else self._rungs(point)[rung]
            self._watcher.on(TrunkBegan(trunk=trunk, after=after))
        return trunk

    def _take(self, point: Point) -> TrunkSpec | None:
        """Choose what a trial of a point trains, and take note that it runs."""
        if self._unfinished[point]:
            return self._trunks[self._unfinished[point].pop(0)]
        if self._promotable[point]:
            return self._promote(point, self._promotable[point][0])
        if self._repeatable[point]:
            return self._begin_repeat(point, self._repeatable[point][0])
        return self._new_trunk(point)

    def _to_go_on(self, point: Point) -> list[str]:
        """List the trunks of a point that are to go on now.

        From the first rung none does before all have come to it: those that go on by the first few
        are often not the best of all, and would be trained for nothing. Other points keep the
        devices busy meanwhile. Later rungs wait for nobody, as that would take long.
        """
        halving = self._halving[point]
        is_open = not halving.to_begin and all(halving.running.values())
        return [key for key in halving.promotable() if is_open or halving.waiting[key]]

    def _startable(self, point: Point) -> int:
        """Count the trials of a point that could start now."""
        if self._waits(point):
            return 0
        goes_on = len(self._unfinished[point]) + len(self._promotable[point])
        return goes_on + self._halving[point].to_begin + len(self._repeatable[point])

    def _begun(self, point: Point) -> int:
        return self._samples[point] - self._halving[point].to_begin

    def _promote(self, point: Point, key: str) -> TrunkSpec:
        halving = self._halving[point]
        epoch = self._rungs(point)[halving.waiting[key]]
        self._record(event="promote", trunk=key, epoch=epoch)
        halving.promote(key)
        return self._trunks[key]

    def _new_trunk(self, point: Point) -> TrunkSpec | None:
        parent = self._parent_of_next(point)
        while self._halving[point].to_begin:
            draw = propose(
                self._plan.search,
                point,
                self._history(point.variant),
                seed=self._plan.spec.run.seed,
                sample=self._begun(point),
                smaller=self._smaller.get(point.variant, ()),
                parent=self._draw_of(parent),
            )
            trunk = self._plan.trunk(point, draw.hyper, draw.recipe, parent=parent)
            self._record_proposal(trunk)
            if trunk.key not in self._trunks:
                self._add(trunk)
                self._halving[point].begin(trunk.key)
                return trunk
            self._halving[point].skip()
        return None

    def _parent_of_next(self, point: Point) -> Parent | None:
        """Return what the next trunk of a point starts from.

        Raises:
            DamagedFileError: its weights are gone, as ``--keep`` deletes them.
        """
        parent = self.parent_at(point)
        if parent is not None:
            weights = self._store.trunk(parent.trunk) / "trunk.safetensors"
            if not weights.exists():
                raise DamagedFileError(weights, "it is missing")
        return parent

    def _draw_of(self, parent: Parent | None) -> Draw | None:
        """Return what the trunk that others start from was trained with, as far as it is known."""
        trunk = None if parent is None else self._trunks.get(parent.trunk)
        return None if trunk is None else self._plan.search.draw_of(trunk)

    def _begin_repeat(self, point: Point, trunk: TrunkSpec) -> TrunkSpec:
        self._parent_of_next(point)  # is there
        self._record_proposal(trunk)
        self._add(trunk)
        self._halving[point].begin_repeat(trunk.key)
        return trunk

    # --- what is reported -----------------------------------------------------------------------

    def report(self, trunk: TrunkSpec, report: EpochReport) -> bool:
        """Take the report of an epoch. It may be repeated, and is then decided the same.

        Returns:
            Whether to train another epoch now.
        """
        key, point = trunk.key, point_of(trunk)
        if key in self._ended or self._waits_after(trunk, report.epoch):
            return False
        self._note(key, report)
        status = status_after(trunk, report)
        goes_on = status is None and self._goes_on(trunk, report.epoch)
        self._watcher.on(EpochEnded(trunk=trunk, report=report, should_continue=goes_on))
        if status is not None:
            self._end(key, status)
        self._settle(point)
        if not goes_on and key not in self._ended:
            self._watcher.on(TrunkPaused(trunk=trunk, after=report.epoch, val=report.val))
        return goes_on

    def allowance_s(self, trunk: TrunkSpec) -> float | None:
        """Bound the seconds of a trial that begins to train a trunk; None: there is no bound."""
        minutes = self._plan.spec.resources.max_minutes_per_trial
        return None if minutes is None else 60 * minutes

    def stopped(self, trunk: TrunkSpec) -> None:
        """Give a trunk up whose trial has come to its bound: the next start goes on with it."""
        minutes = self._plan.spec.resources.max_minutes_per_trial
        self.failed(trunk, f"Its trial took longer than --max-minutes-per-trial {minutes:g}.")

    def retried(self, trunk: TrunkSpec, error: str, left: str = "") -> None:
        """Report that a trial failed, and another is started; ``left`` as in TrialRetried."""
        self._watcher.on(TrialRetried(trunk=trunk, error=error, left=left))

    def failed(self, trunk: TrunkSpec, error: str) -> None:
        """Give the trunk up: the sweep goes on without it, and the next start tries it again."""
        if trunk.key not in self._ended:
            write_text(self._store.trunk(trunk.key) / "error.txt", error)
            self._end(trunk.key, TrunkStatus.FAILED, error)
            self._settle(point_of(trunk))

    def _goes_on(self, trunk: TrunkSpec, epoch: int) -> bool:
        """Decide whether a trunk is trained on at once after an epoch."""
        key, halving = trunk.key, self._halving[point_of(trunk)]
        rungs = self._rungs(point_of(trunk))
        if epoch not in rungs:
            return True
        rung = rungs.index(epoch)
        if halving.running.get(key) != rung:  # The report is repeated: this has been decided.
            return rung < halving.running.get(key, halving.waiting.get(key, 0))
        value = self._values[key][epoch]
        halving.arrive(key, value)
        goes_on = self._goes_on_at(key)
        # The journal has one name for it, whatever the metric: the sweep's spec says which it is.
        self._record(event="rung", trunk=key, epoch=epoch, top1=value, goes_on=goes_on)
        if goes_on:
            halving.promote(key)
        return goes_on

    def _goes_on_at(self, key: str) -> bool:
        """Decide whether a trunk that has just come to a rung is promoted at once."""
        return key in self._to_go_on(point_of(self._trunks[key]))

    def _waits_after(self, trunk: TrunkSpec, epoch: int) -> bool:
        rung = self._halving[point_of(trunk)].waiting.get(trunk.key)
        return rung is not None and self._rungs(point_of(trunk))[rung] == epoch

    def _settle(self, point: Point) -> None:
        """Cut the trunks of a point that can no longer be promoted, and list what can begin now."""
        halving = self._halving[point]
        for key in sorted(halving.lost()):
            self._end(key, TrunkStatus.CUT)
        self._promotable[point] = self._to_go_on(point)
        self._repeatable[point] = self._repeats_to_begin(point) if self._is_known(point) else []
        left = halving.to_begin or halving.running or halving.waiting or self._repeatable[point]
        if not left:
            self._settled[point] = None
        self._rate(point)
        for above in self._above[point]:
            self._rate(above)

    def _end(self, key: str, status: TrunkStatus, error: str = "") -> None:
        self._set_ended(key, status)
        finished = status == TrunkStatus.FINISHED
        self._halving[point_of(self._trunks[key])].leave(key, finished=finished)
        self._record(event="end", trunk=key, why=status.value)
        if status != TrunkStatus.FAILED:
            finalize_trunk(self._store, key, status)
            for report in recorded_reports(self._store, key):  # also of earlier processes
                self._note(key, report)
        self._announce_end(key, error)

    def _announce_end(self, key: str, error: str = "") -> None:
        reports = self._reports.get(key, {})
        self._watcher.on(
            TrunkEnded(
                trunk=self._trunks[key],
                status=self._ended[key],
                reports=tuple(reports[e] for e in sorted(reports)),
                error=error,
            )
        )

    # --- what is remembered ---------------------------------------------------------------------

    def _replay(self) -> None:
        """Restore the state that the journal records, and finish what a kill left unfinished.

        A trunk that failed is trained on. One that ended, but whose result is damaged or gone, is
        trained again, as is one that waits, and whose state is gone: what was decided at their
        rungs stands.
        """
        recorded = read_journal(self._store, self._plan)
        for trunk in recorded.asked:
            if trunk.key in self._trunks:
                self._halving[point_of(trunk)].skip()
            else:
                self._add(trunk)
                halving = self._halving[point_of(trunk)]
                (halving.begin_repeat if trunk.repeat else halving.begin)(trunk.key)
        for trunk in recorded.restored:
            self._record_proposal(trunk)
        for line in recorded.moves:
            self._recall(line)
        for key, status in recorded.ended.items():
            if status != TrunkStatus.FAILED:  # that is tried again
                self._recall_end(key, status)
        for key, trunk in self._trunks.items():
            halving = self._halving[point_of(trunk)]
            if key in halving.waiting and not self._has_state(key):
                halving.repeat(key)
            if key in halving.running:
                self._unfinished[point_of(trunk)].append(key)
        for point in self._halving:
            self._settle(point)
        for point, halving in self._halving.items():
            for key, rung in halving.waiting.items():
                after = self._rungs(point)[rung]
                self._watcher.on(TrunkPaused(trunk=self._trunks[key], after=after))

    def _recall(self, line: Decided | Promoted) -> None:
        """Restore what a line says of a rung; one that contradicts those before changes nothing."""
        point = point_of(self._trunks[line.trunk])
        key, halving, rungs = line.trunk, self._halving[point], self._rungs(point)
        if line.epoch not in rungs:
            return
        rung = rungs.index(line.epoch)
        if isinstance(line, Decided) and halving.running.get(key) == rung:
            halving.arrive(key, line.top1)
            self._values[key].setdefault(line.epoch, line.top1)
        goes_on = isinstance(line, Promoted) or line.goes_on
        if goes_on and halving.waiting.get(key) == rung:
            halving.promote(key)

    def _recall_end(self, key: str, status: TrunkStatus) -> None:
        try:
            finalize_trunk(self._store, key, status)
            reports = recorded_reports(self._store, key)
        except DamagedFileError as error:
            log.warning("%s: the trunk is trained again", error.what)
            discard_trunk(self._store, key)
            return
        finished = status == TrunkStatus.FINISHED
        self._halving[point_of(self._trunks[key])].leave(key, finished=finished)
        self._set_ended(key, status)
        for report in reports:
            self._note(key, report)
        self._announce_end(key)

    def _has_state(self, key: str) -> bool:
        folder = self._store.trunk(key)
        return any((folder / name).exists() for name in ("state.pt", "result.json"))

    def _record_proposal(self, trunk: TrunkSpec) -> None:
        self._record(**asked(trunk, self._plan.search.draw_of(trunk)))

    def _record(self, **line: Any) -> None:
        """Append a line to the journal."""
        self._journal.append(line)
