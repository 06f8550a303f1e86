"""The phases of a run, and the tasks that their trials have: which may be queued beside which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sweeps.execution.resources import NetAtRes, PhaseResources
from trainables.ray_backend.tune_trainables import Work

# Trials of a later phase that wait for a place to start in, at most: those of an earlier one that
# come meanwhile find room in the queue, where they pass them.
MAX_WAITING_OF_LATER_PHASES = 8
ROUNDING = 1e-6  # of sums of shares
Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A trial that is to be queued."""

    net: NetAtRes  # a key of the phase's resources
    work: Work | None = None  # None: it is chosen when the trial starts


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Callbacks of a phase: they supply the trials and receive their results.

    Attributes:
        queue: returns the next trial to be queued; None: there is none for now, and none at all
            once no trial runs.
        should_continue: receives the work and a result, and decides whether the trial continues.
            The same result may come twice.
        failed: receives work whose retries have all failed, and the last traceback.
        retried: receives work that is tried again, the traceback of its failure, and the name of
            the node that it is kept from for the first time; empty: it may go to any as before.
        begin: chooses the work of a queued trial that starts without; None: there is none left.
        urgency: rates queued trials: the lowest start first, of equal ones the first.
        preceded: is called, before ``queue``, once the phases before it have come to their end.
    """

    queue: Callable[[], Queued | None]
    should_continue: Callable[[Work, dict[str, Any]], bool]
    failed: Callable[[Work, str], None]
    retried: Callable[[Work, str, str], None] = lambda _, __, ___: None
    begin: Callable[[NetAtRes], Work | None] = lambda _: None
    urgency: Callable[[NetAtRes], tuple[int, float]] = lambda _: (0, 0)
    preceded: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunningPhase:
    """A phase in a run, and what its trials get."""

    phase: Phase
    resources: PhaseResources
    rank: int
    """Its place among the phases, the first is 0."""

    @property
    def share(self) -> float:
        """What share of the machine a trial takes; 0: the cluster has as much as is asked for."""
        return 1 / self.resources.concurrency if self.resources.concurrency else 0.0


@dataclass
class Task:
    """What is to be done by a trial, or by several in turn where they fail."""

    of: RunningPhase
    queued: Queued
    config: Config
    work: Work | None = None
    has_begun: bool = False
    failures: int = 0
    """Failures of those trials of the task that Tune gave up."""
    node: Any = None
    """The answer of its process on which node it runs; None: it was not asked, or has failed."""
    failed_on: Counter[str] = field(default_factory=Counter)
    """Failures by the id of the node, as far as that is known."""
    is_withdrawn: bool = False
    """Whether its trial was ended as no node could hold it, for another to take its place."""

    def begin(self) -> None:
        """Choose the work, if it has not been chosen."""
        if not self.has_begun:
            self.has_begun = True
            self.work = self.queued.work or self.of.phase.begin(self.queued.net)

    @property
    def avoided(self) -> tuple[str, ...]:
        """The ids of the nodes that its trials are kept from."""
        return tuple(self.config.get("avoided", ()))

    def avoid(self, nodes: tuple[str, ...]) -> None:
        """Keep its next trial from these nodes, and from no others."""
        self.config = {**self.config, "avoided": nodes}


class Tasks(dict[str, Task]):
    """The tasks of all trials that are queued or run, by trial id."""

    def of_phase(self, of: RunningPhase) -> list[Task]:
        """List those of a phase."""
        return [task for task in self.values() if task.of is of]

    @property
    def have_groups(self) -> bool:
        """Whether a trial with several workers has begun."""
        return any(task.has_begun and "workers" in task.config for task in self.values())

    def have_room_for(self, of: RunningPhase) -> bool:
        """Whether a trial of a phase may be queued beside those that there are."""
        own = self.of_phase(of)
        most = of.resources.concurrency
        if most is not None and len(own) >= most:
            return False
        if not of.rank:
            return True
        waiting = sum(not task.has_begun for task in own)
        taken = sum(task.of.share for task in self.values()) + of.share
        return waiting < MAX_WAITING_OF_LATER_PHASES and taken < 1 + ROUNDING
