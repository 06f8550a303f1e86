"""Phase 1 as decisions: which trunk next, does it go on, when is it over. Knows no processes.

Every decision is in the journal before it is acted on, so that a sweep whose driver was killed
goes on from where it stood: what was proposed is proposed again, what was cut stays cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeps.events.event_types import EpochEnded, TrialRetried, TrunkBegan, TrunkEnded, Watcher
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling.asha import GroupedAsha
from sweeps.scheduling.tpe import Trial, propose
from trainables.storage.artifact_store import Store
from trainables.storage.files import append_line, read_lines, write_text
from trainables.training.recipe import Hyper
from trainables.training.trunk import (
    EpochReport,
    TrunkSpec,
    TrunkStatus,
    finalize_trunk,
    recorded_reports,
)
from trainables.transforms.eval_transform import EvalTransform


class TrunkScheduler:
    """Hands out trunks and judges their reports."""

    def __init__(self, plan: Plan, store: Store, watcher: Watcher):
        options = plan.spec
        self._plan, self._store, self._watcher = plan, store, watcher
        self._asha = GroupedAsha(
            epochs=options.trunks.epochs,
            grace_epochs=options.halving.grace_epochs,
            reduction=options.halving.reduction,
        )
        self._trunks: dict[str, TrunkSpec] = {}  # by key, in the order of asking
        self._next_index = 0
        self._reports: dict[str, dict[int, EpochReport]] = {}
        self._ended: dict[str, str] = {}
        self._handed_out: set[str] = set()
        self._replay()

    def _replay(self) -> None:
        for line in read_lines(self._store.journal):
            if line["event"] == "ask":
                self._ask(line["index"], Hyper(**line["hyper"]))
            elif line["event"] == "rung":
                self._asha.remember(
                    line["group"], line["trunk"], line["epoch"], line["top1"], line["goes_on"]
                )
            elif line["event"] == "end":
                self._ended[line["trunk"]] = line["why"]
        for key, why in self._ended.items():
            if why != "failed":
                finalize_trunk(self._store, key, TrunkStatus(why))
            self._reports[key] = {r.epoch: r for r in recorded_reports(self._store, key)}
            self._tell_ended(key)

    def _error_of(self, key: str) -> str:
        """Why a trunk failed, as it was kept."""
        path = self._store.trunk(key) / "error.txt"
        return path.read_text(encoding="utf-8") if self._ended[key] == "failed" else ""

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def points(self) -> tuple[Point, ...]:
        return self._plan.points

    def val_transforms(self, trunk: TrunkSpec) -> tuple[EvalTransform, ...]:
        """What the trunk is scored through at its rungs."""
        return self._plan.val_transforms(point_of(trunk))

    @property
    def is_over(self) -> bool:
        """Whether every trunk of the plan has been asked for and has ended."""
        return self._next_index >= self._plan.trunks and not set(self._trunks) - set(self._ended)

    def next(self) -> TrunkSpec | None:
        """The next trunk to train, unfinished ones of an earlier run first; None: no more."""
        for key, trunk in self._trunks.items():
            if key not in self._ended and key not in self._handed_out:
                return self._hand_out(trunk)
        while self._next_index < self._plan.trunks:
            index = self._next_index
            hyper = propose(
                self._plan.spec.trunks,
                self._point(index),
                list(self._history()),
                seed=self._plan.spec.run.seed,
                index=index,
            )
            trunk = self._ask(index, hyper)
            self._note(event="ask", index=index, trunk=trunk.key, hyper=hyper)
            if trunk.key not in self._ended and trunk.key not in self._handed_out:
                return self._hand_out(trunk)
        return None

    def report(self, trunk: TrunkSpec, report: EpochReport) -> bool:
        """Take the report of an epoch; whether to train another. Safe to repeat."""
        key = trunk.key
        if key in self._ended:
            return False
        self._reports.setdefault(key, {})[report.epoch] = report
        why = self._verdict(trunk, report)
        self._watcher.on(EpochEnded(trunk=trunk, report=report, should_continue=why is None))
        if why is not None:
            self._end(key, why)
        return why is None

    def retried(self, trunk: TrunkSpec, error: str) -> None:
        """A trial of the trunk failed, and another comes."""
        self._watcher.on(TrialRetried(trunk=trunk, error=error))

    def failed(self, trunk: TrunkSpec, error: str) -> None:
        """The trunk cannot be trained; the sweep goes on without it."""
        if trunk.key not in self._ended:
            write_text(self._store.trunk(trunk.key) / "error.txt", error)
            self._end(trunk.key, "failed")

    def survivors(self) -> list[TrunkSpec]:
        """The best trunks of each point: first by how far they came, then by val top-1."""
        chosen = []
        for point in self.points:
            candidates = [
                trunk
                for key, trunk in self._trunks.items()
                if point_of(trunk) == point and self._ended.get(key) in ("finished", "cut")
            ]
            candidates.sort(key=lambda t: self._merit(t.key), reverse=True)
            chosen += candidates[: self._plan.spec.fix.survivors]
        return chosen

    def _verdict(self, trunk: TrunkSpec, report: EpochReport) -> str | None:
        """Why the trunk is over, or None."""
        if report.diverged:
            return "diverged"
        if report.epoch >= trunk.recipe.epochs:
            return "finished"
        if report.best_val is None:
            return None
        decided = self._asha.recall(trunk.key, report.epoch)
        if decided is None:
            decided = self._decide(trunk, report.epoch, report.best_val.top1)
        return None if decided else "cut"

    def _decide(self, trunk: TrunkSpec, epoch: int, top1: float) -> bool:
        key, group = trunk.key, trunk.variant
        goes_on = self._asha.should_continue(group, key, epoch, top1)
        self._note(event="rung", group=group, trunk=key, epoch=epoch, top1=top1, goes_on=goes_on)
        return goes_on

    def _end(self, key: str, why: str) -> None:
        self._ended[key] = why
        self._note(event="end", trunk=key, why=why)
        if why != "failed":
            finalize_trunk(self._store, key, TrunkStatus(why))
        self._tell_ended(key)

    def _tell_ended(self, key: str) -> None:
        reports = self._reports.get(key, {})
        self._watcher.on(
            TrunkEnded(
                trunk=self._trunks[key],
                why=self._ended[key],
                reports=tuple(reports[e] for e in sorted(reports)),
                error=self._error_of(key),
            )
        )

    def _point(self, index: int) -> Point:
        """Points take turns: each has its first trial before any has its second."""
        return self.points[index % len(self.points)]

    def _ask(self, index: int, hyper: Hyper) -> TrunkSpec:
        trunk = self._plan.trunk(self._point(index), hyper)
        self._trunks.setdefault(trunk.key, trunk)
        self._next_index = max(self._next_index, index + 1)
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
                top1={e: r.best_val.top1 for e, r in reports.items() if r.best_val},
                running=key not in self._ended,
                finished=self._ended.get(key) == "finished",
            )

    def _merit(self, key: str) -> tuple[int, int]:
        scored = [r for r in self._reports[key].values() if r.best_val]
        last = max(scored, key=lambda r: r.epoch, default=None)
        return (last.epoch, last.best_val.hits1) if last and last.best_val else (0, 0)

    def _note(self, **line: Any) -> None:
        append_line(self._store.journal, line)
