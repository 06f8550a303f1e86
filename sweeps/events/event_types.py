"""The events of a sweep, for those who only watch it: the terminal, MLflow and the report.

After a restart, events of what the store holds come again, equal to the first ones: a watcher keeps
what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sweeps.events.failures import Failure, last_line
from sweeps.planning.cell import Cell, trunk_in_words
from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row
from trainables.evaluation.metrics import Score
from trainables.profiling.speed_file import DeviceTimings
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus


@dataclass(frozen=True, kw_only=True)
class SweepBegan:
    """A sweep begins, or is continued, by this plan."""

    plan: Plan
    kept: tuple[DeviceTimings, ...] = ()
    """What earlier sweeps have timed, on this machine's device first."""


@dataclass(frozen=True, kw_only=True)
class TrunkBegan:
    """A trunk is trained, or trained on, from now on."""

    trunk: TrunkSpec
    after: int = 0  # epochs that it has been trained for before


@dataclass(frozen=True, kw_only=True)
class EpochEnded:
    """An epoch of a trunk has ended; after a restart, epochs of the store come again."""

    trunk: TrunkSpec
    report: EpochReport
    should_continue: bool  # whether the trunk is trained on at once


@dataclass(frozen=True, kw_only=True)
class TrunkPaused:
    """A trunk waits at a rung: it is either trained on later, or cut."""

    trunk: TrunkSpec
    after: int  # epochs that it has been trained for
    val: Mapping[int, Score] = field(default_factory=dict)  # by test resolution; empty: long known


@dataclass(frozen=True, kw_only=True)
class TrunkEnded:
    """The training of a trunk has ended."""

    trunk: TrunkSpec
    status: TrunkStatus
    reports: tuple[EpochReport, ...]  # one for each epoch
    error: str = ""  # the trace, if it failed

    @property
    def failure(self) -> Failure | None:
        """How it failed; None: it did not."""
        if self.status != TrunkStatus.FAILED:
            return None
        name, reason = trunk_in_words(self.trunk), last_line(self.error)
        return Failure(kind="trunk", name=name, key=self.trunk.key, reason=reason)


@dataclass(frozen=True, kw_only=True)
class CellsPlanned:
    """Cells are to be made, those included that the store holds, beside those planned before."""

    cells: tuple[Cell, ...]
    is_last: bool = True
    """Whether phase 1 is over, and no more will be planned."""


@dataclass(frozen=True, kw_only=True)
class CellBegan:
    """A cell is worked out from now on."""

    cell: Cell


@dataclass(frozen=True, kw_only=True)
class CellEnded:
    """The rows of a cell are there, or it has failed."""

    cell: Cell
    rows: tuple[Row, ...]  # empty: it failed
    error: str = ""  # the trace, if it failed

    @property
    def failure(self) -> Failure | None:
        """How it failed; None: it did not."""
        if self.rows:
            return None
        reason = last_line(self.error)
        return Failure(kind="cell", name=self.cell.label, key=self.cell.key, reason=reason)


@dataclass(frozen=True, kw_only=True)
class TrialRetried:
    """A trial failed, and another continues its work."""

    trunk: TrunkSpec
    cell: Cell | None = None  # None: the trial trained the trunk
    error: str  # the trace of the trial that failed
    left: str = ""  # the node that it is kept from from now on; empty: from none anew


Event = (
    SweepBegan
    | TrunkBegan
    | EpochEnded
    | TrunkPaused
    | TrunkEnded
    | CellsPlanned
    | CellBegan
    | CellEnded
    | TrialRetried
)


class Watcher(Protocol):
    """An observer of a sweep: it takes events as they come, and decides nothing."""

    def on(self, event: Event) -> None:
        """Take an event."""


class Watchers:
    """Several watchers as one."""

    def __init__(self, watchers: Iterable[Watcher]):
        self._watchers = tuple(watchers)

    def on(self, event: Event) -> None:
        """Pass the event on to each watcher, in their order."""
        for watcher in self._watchers:
            watcher.on(event)
