"""Schedule phase 1: decide which trunk comes next and which goes on. Knows no processes.

Every decision is in the journal before it is acted on. A sweep whose driver was killed thus goes on
from where it stood: what was proposed is proposed again, and what was cut stays cut.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sweeps.events.event_types import EpochEnded, TrialRetried, TrunkBegan, TrunkEnded, Watcher
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling.asha import GroupedAsha
from sweeps.scheduling.journal import point_at, read_journal
from sweeps.scheduling.repair import discard_trunk
from sweeps.scheduling.tpe import Trial, propose
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import append_line, write_text
from trainables.training.recipe import Hyper
from trainables.training.trunk import (
    EpochReport,
    TrunkSpec,
    TrunkStatus,
    finalize_trunk,
    recorded_reports,
)
from trainables.transforms.eval_transform import EvalTransform

log = logging.getLogger("fixres")


class TrunkScheduler:
    """The schedule of phase 1: it hands out trunks, and decides by their reports which go on.

    It begins where the journal in the store ends.

    Args:
        watcher: gets an event for each change.
    """

    def __init__(self, plan: Plan, store: Store, watcher: Watcher):
        options = plan.spec
        self._plan, self._store, self._watcher = plan, store, watcher
        self._asha = GroupedAsha(
            epochs=options.trunks.epochs,
            grace_epochs=options.halving.grace_epochs,
            reduction=options.halving.reduction,
        )
        self._trunks: dict[str, TrunkSpec] = {}  # by key, in the order of the proposals
        self._proposed: set[int] = set()  # indices of trials
        self._reports: dict[str, dict[int, EpochReport]] = {}  # by key and epoch
        self._ended: dict[str, TrunkStatus] = {}  # by key
        self._handed_out: set[str] = set()
        self._replay()

    def _replay(self) -> None:
        """Restore the state that the journal records, and finish what a kill left unfinished.

        A trunk that ended, but whose result is damaged or gone, is trained again: what was decided
        at its rungs stands.
        """
        recorded = read_journal(self._store, self._plan)
        for index, trunk in recorded.asked.items():
            self._trunks.setdefault(trunk.key, trunk)
            self._proposed.add(index)
        for index, trunk in recorded.restored.items():
            self._record(event="ask", index=index, trunk=trunk.key, hyper=trunk.hyper)
        for line in recorded.decided:
            self._asha.remember(line.group, line.trunk, line.epoch, line.top1, line.goes_on)
        for key, status in recorded.ended.items():
            try:
                if status != TrunkStatus.FAILED:
                    finalize_trunk(self._store, key, status)
                reports = recorded_reports(self._store, key)
            except DamagedFileError as error:
                log.warning("%s: the trunk is trained again", error.what)
                discard_trunk(self._store, key)
                continue
            self._ended[key] = status
            self._reports[key] = {r.epoch: r for r in reports}
            self._announce_end(key)

    def _error_of(self, key: str) -> str:
        """Read the trace of a trunk that failed; "": it did not, or its trace is gone."""
        path = self._store.trunk(key) / "error.txt"
        if self._ended[key] != TrunkStatus.FAILED or not path.exists():
            return ""
        return path.read_bytes().decode("utf-8", errors="replace")

    @property
    def plan(self) -> Plan:
        """The plan of the sweep."""
        return self._plan

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of the grid, in its order."""
        return self._plan.points

    def val_transforms(self, trunk: TrunkSpec) -> tuple[EvalTransform, ...]:
        """List the transforms of val that the trunk is scored with at its rungs."""
        return self._plan.val_transforms(point_of(trunk))

    @property
    def is_over(self) -> bool:
        """Whether every trunk of the plan has been proposed and has ended."""
        return self._next_index is None and not set(self._trunks) - set(self._ended)

    @property
    def _next_index(self) -> int | None:
        """The first trial that has not been proposed; None: all have."""
        return next((i for i in range(self._plan.trunks) if i not in self._proposed), None)

    def next(self) -> TrunkSpec | None:
        """Hand out the next trunk to train, unfinished ones of an earlier process first.

        Returns:
            The trunk; None: there are no more.
        """
        for key, trunk in self._trunks.items():
            if key not in self._ended and key not in self._handed_out:
                return self._hand_out(trunk)
        while (index := self._next_index) is not None:
            hyper = propose(
                self._plan.spec.trunks,
                point_at(self._plan, index),
                list(self._history()),
                seed=self._plan.spec.run.seed,
                index=index,
            )
            trunk = self._add(index, hyper)
            self._record(event="ask", index=index, trunk=trunk.key, hyper=hyper)
            if trunk.key not in self._ended and trunk.key not in self._handed_out:
                return self._hand_out(trunk)
        return None

    def report(self, trunk: TrunkSpec, report: EpochReport) -> bool:
        """Take the report of an epoch. It may be repeated, and is then decided the same.

        Returns:
            Whether to train another epoch.
        """
        key = trunk.key
        if key in self._ended:
            return False
        self._reports.setdefault(key, {})[report.epoch] = report
        status = self._status_after(trunk, report)
        self._watcher.on(EpochEnded(trunk=trunk, report=report, should_continue=status is None))
        if status is not None:
            self._end(key, status)
        return status is None

    def retried(self, trunk: TrunkSpec, error: str) -> None:
        """Report that a trial of the trunk failed, and that another is started."""
        self._watcher.on(TrialRetried(trunk=trunk, error=error))

    def failed(self, trunk: TrunkSpec, error: str) -> None:
        """Give the trunk up: the sweep goes on without it."""
        if trunk.key not in self._ended:
            write_text(self._store.trunk(trunk.key) / "error.txt", error)
            self._end(trunk.key, TrunkStatus.FAILED)

    def survivors(self) -> list[TrunkSpec]:
        """List the best trunks of each point: by how far they were trained, then by val."""
        best = []
        for point in self.points:
            candidates = [
                trunk
                for key, trunk in self._trunks.items()
                if point_of(trunk) == point
                and self._ended.get(key) in (TrunkStatus.FINISHED, TrunkStatus.CUT)
            ]
            candidates.sort(key=lambda t: self._merit(t.key), reverse=True)
            best += candidates[: self._plan.spec.fix.survivors]
        return best

    def _status_after(self, trunk: TrunkSpec, report: EpochReport) -> TrunkStatus | None:
        """Decide how the trunk has ended with this report; None: it goes on."""
        if report.diverged:
            return TrunkStatus.DIVERGED
        if report.epoch >= trunk.recipe.epochs:
            return TrunkStatus.FINISHED
        value = self._value(report)
        if value is None:
            return None
        goes_on = self._asha.recall(trunk.key, report.epoch)
        if goes_on is None:
            goes_on = self._decide(trunk, report.epoch, value)
        return None if goes_on else TrunkStatus.CUT

    def _value(self, report: EpochReport) -> float | None:
        """Return the rung metric at the best test resolution; None: val was not scored."""
        best = report.best_by(self._plan.metric)
        return None if best is None else best.value(self._plan.metric)

    def _decide(self, trunk: TrunkSpec, epoch: int, value: float) -> bool:
        key, group = trunk.key, trunk.variant
        goes_on = self._asha.should_continue(group, key, epoch, value)
        # The journal has one name for it, whatever the metric: the sweep's spec says which it is.
        self._record(event="rung", group=group, trunk=key, epoch=epoch, top1=value, goes_on=goes_on)
        return goes_on

    def _end(self, key: str, status: TrunkStatus) -> None:
        self._ended[key] = status
        self._record(event="end", trunk=key, why=status.value)
        if status != TrunkStatus.FAILED:
            finalize_trunk(self._store, key, status)
        self._announce_end(key)

    def _announce_end(self, key: str) -> None:
        reports = self._reports.get(key, {})
        self._watcher.on(
            TrunkEnded(
                trunk=self._trunks[key],
                status=self._ended[key],
                reports=tuple(reports[e] for e in sorted(reports)),
                error=self._error_of(key),
            )
        )

    def _add(self, index: int, hyper: Hyper) -> TrunkSpec:
        """Add the trunk of trial ``index``; it may be one that was proposed before."""
        trunk = self._plan.trunk(point_at(self._plan, index), hyper)
        self._trunks.setdefault(trunk.key, trunk)
        self._proposed.add(index)
        return trunk

    def _hand_out(self, trunk: TrunkSpec) -> TrunkSpec:
        self._handed_out.add(trunk.key)
        self._watcher.on(TrunkBegan(trunk=trunk))
        return trunk

    def _history(self) -> Iterator[Trial]:
        for key, trunk in self._trunks.items():
            reports = self._reports.get(key, {})
            yield Trial(
                point=point_of(trunk),
                hyper=trunk.hyper,
                values={e: v for e, r in reports.items() if (v := self._value(r)) is not None},
                running=key not in self._ended,
                finished=self._ended.get(key) == TrunkStatus.FINISHED,
            )

    def _merit(self, key: str) -> tuple[int, float]:
        """Return the last epoch at which a trunk was scored, and its value there."""
        values = {r.epoch: self._value(r) for r in self._reports[key].values()}
        scored = {epoch: value for epoch, value in values.items() if value is not None}
        return max(scored.items(), default=(0, 0.0))

    def _record(self, **line: Any) -> None:
        """Append a line to the journal."""
        append_line(self._store.journal, line)
