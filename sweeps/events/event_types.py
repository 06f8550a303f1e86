"""What happens in a sweep, as those who only watch are told it: the terminal and MLflow.

Told again after a restart, an event is the same event: watchers keep what they have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from sweeps.planning.cell import Cell
from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row
from trainables.training.trunk import EpochReport, TrunkSpec


@dataclass(frozen=True, kw_only=True)
class SweepBegan:
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class TrunkBegan:
    trunk: TrunkSpec


@dataclass(frozen=True, kw_only=True)
class EpochEnded:
    trunk: TrunkSpec
    report: EpochReport
    should_continue: bool


@dataclass(frozen=True, kw_only=True)
class TrunkEnded:
    trunk: TrunkSpec
    why: str  # "finished" | "cut" | "diverged" | "failed"
    reports: tuple[EpochReport, ...]
    error: str = ""  # the trace of one that failed


@dataclass(frozen=True, kw_only=True)
class CellsPlanned:
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class CellBegan:
    cell: Cell


@dataclass(frozen=True, kw_only=True)
class CellEnded:
    cell: Cell
    rows: tuple[Row, ...]  # empty: it failed
    error: str = ""  # its trace then


@dataclass(frozen=True, kw_only=True)
class TrialRetried:
    """A trial failed, and another takes up what it left."""

    trunk: TrunkSpec
    cell: Cell | None = None  # None: the trunk's own
    error: str  # its trace


Event = (
    SweepBegan
    | TrunkBegan
    | EpochEnded
    | TrunkEnded
    | CellsPlanned
    | CellBegan
    | CellEnded
    | TrialRetried
)


class Watcher(Protocol):
    """Takes events as they come; decides nothing."""

    def on(self, event: Event) -> None: ...


class Watchers:
    """Several watchers as one."""

    def __init__(self, watchers: Iterable[Watcher]):
        self._watchers = tuple(watchers)

    def on(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher.on(event)
