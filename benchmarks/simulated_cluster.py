"""GPUs of a simulated cluster: which are busy, with what and until when, and which are away.

What runs on them takes what it is said to take; that it starts takes nothing. GPUs may be lost, and
come back: the work of one goes on as soon as there are GPUs for it, before all other, from what it
saved last, after the time that a restart takes.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from sweeps.execution.resources import MAX_WORKER_GROUPS
from trainables.training.trainer import SAVE_EVERY_S
from trainables.training.trunk import TrunkSpec

AWAY_S = 300.0  # from the loss of a GPU to the next
RESTART_S = 60.0  # of a trial that was lost, until it works again


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What is left of an epoch of a trunk, or of a cell, as it is put on GPUs."""

    seconds: float
    workers: int = 1
    trunk: TrunkSpec | None = None  # None: it is a cell
    epoch: int = 0
    restart_s: float = 0.0


@dataclass
class Cluster:
    """GPUs that are busy, free, or away for a while.

    Those that are idle are not lost; it would change nothing but which of them are busy next.

    Args:
        losses_per_hour: how often each GPU goes away.
    """

    gpus: int
    losses_per_hour: float
    rng: np.random.Generator
    now: float = 0.0
    busy_s: float = 0.0
    lost_at: list[float] = field(default_factory=list)
    free: int = 0
    groups_left: int = MAX_WORKER_GROUPS
    interrupted: list[Stretch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = self.gpus
        self._numbers = itertools.count()
        # When, a number, and what: a stretch, and seconds of it that are done, None all; or a GPU
        # that is back.
        self._events: list[tuple[float, int, Stretch | None, float | None]] = []

    def has_room(self, workers: int) -> bool:
        """Whether a trial with so many workers can start now."""
        return workers <= self.free and (workers == 1 or self.groups_left > 0)

    def start(self, stretch: Stretch) -> None:
        """Take the GPUs of a trial."""
        self.free -= stretch.workers
        self.groups_left -= stretch.workers > 1
        self.go_on(stretch)

    def go_on(self, stretch: Stretch) -> None:
        """Work on GPUs that the trial has, until the stretch ends or one of them is lost."""
        lasts, done = stretch.restart_s + stretch.seconds, None
        if self.losses_per_hour:
            until_loss = self.rng.exponential(3600 / self.losses_per_hour / stretch.workers)
            if until_loss < lasts:
                lasts, done = until_loss, max(0.0, until_loss - stretch.restart_s)
        self.busy_s += stretch.workers * lasts
        heapq.heappush(self._events, (self.now + lasts, next(self._numbers), stretch, done))

    def release(self, stretch: Stretch) -> None:
        """Give the GPUs of a trial back."""
        self.free += stretch.workers
        self.groups_left += stretch.workers > 1

    def restart(self) -> bool:
        """Start a trial that was lost, if there is one and room for it."""
        if not self.interrupted or not self.has_room(self.interrupted[0].workers):
            return False
        self.start(self.interrupted.pop(0))
        return True

    def next_end(self) -> Stretch | None:
        """Turn the clock to a stretch's end, or to GPUs that are free; None: it is these."""
        self.now, _, stretch, done = heapq.heappop(self._events)
        if stretch is None:
            self.free += 1
            return None
        if done is None:
            return stretch
        saved = done // SAVE_EVERY_S * SAVE_EVERY_S
        left = replace(stretch, seconds=stretch.seconds - saved, restart_s=RESTART_S)
        self.interrupted.append(left)
        self.release(stretch)
        self.free -= 1
        self.lost_at.append(self.now)
        heapq.heappush(self._events, (self.now + AWAY_S, next(self._numbers), None, None))
        return None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs, nor waits for GPUs that are away."""
        return not self.interrupted and all(stretch is None for _, _, stretch, _ in self._events)

    @property
    def idle(self) -> float:
        """The share of the GPUs' time until now in which they were there and not busy."""
        away_s = sum(min(AWAY_S, self.now - at) for at in self.lost_at)
        return 1 - self.busy_s / (self.gpus * self.now - away_s)
