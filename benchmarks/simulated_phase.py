"""Phase 1 on a simulated clock: the product decides, and trials take what the cost model says.

An epoch takes what nominal_epoch_s says, shared among the workers of a trunk that is spread; that
a trial starts takes nothing. GPUs may be lost, and come back: the trial of one goes on as soon as
there are GPUs for it, before others, from what was saved last, after the time that a restart takes.
"""

from __future__ import annotations

import heapq
import itertools
import math
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_up_sweeps import Curves, report_of
from sweeps.execution.resources import MAX_WORKER_GROUPS
from sweeps.execution.spreading import group_speed, spread_trunks
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw, Search
from sweeps.planning.workload import nominal_epoch_s
from sweeps.scheduling import proposals, trunk_scheduler
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.proposals import STARTUP_TRIALS, Trial
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.fake_training import Events
from trainables.storage.artifact_store import Store
from trainables.training.trainer import SAVE_EVERY_S
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

AWAY_S = 300.0  # from the loss of a GPU to the next
RESTART_S = 60.0  # of a trial that was lost, until it trains again
QUEUED = 16  # trials that wait on a cluster, so that the autoscaler sees them


class Workers:
    """Train trunks, and keep what they report here: to store it takes as long as to decide."""

    def __init__(self, plan: Plan, curves: Curves):
        self._plan, self._curves = plan, curves
        self.reports: dict[str, list[EpochReport]] = defaultdict(list)  # by key
        self._now: dict[str, float] = {}  # the true accuracy of each

    def train(self, trunk: TrunkSpec, epoch: int) -> EpochReport:
        """Train the next epoch of a trunk."""
        reports = self.reports[trunk.key]
        assert epoch == len(reports) + 1
        start = self._start(trunk)
        reports.append(report_of(self._curves, self._plan, trunk, epoch, start))
        self._now[trunk.key] = self._curves.top1(trunk, epoch, start)
        return reports[-1]

    def top1(self, trunk: TrunkSpec) -> float:
        """Tell the true accuracy of a trunk as it is now."""
        return self._now[trunk.key]

    def _start(self, trunk: TrunkSpec) -> float | None:
        return None if trunk.parent is None else self._now[trunk.parent.trunk]

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return sum(map(len, self.reports.values()))


class KnownDurations:
    """Predicts what an epoch takes without an error; cells and the end take nothing."""

    close_s = spawn_s = 0.0
    learnt = 0

    def __init__(self, plan: Plan):
        self.plan = plan

    def trunk_s(self, point: Point, after: int, until: int) -> float:
        return sum(
            nominal_epoch_s(self.plan, point, epoch) for epoch in range(after + 1, until + 1)
        )

    def cell_s(self, *_: Any) -> float:
        return 0.0

    def reading_s(self, *_: Any) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated phase 1 came to."""

    epochs: int
    gpu_s: float
    elapsed_s: float
    idle: float  # share of the GPUs that there were
    losses: int
    winner: float  # its true top-1
    by_tpe: float  # share
    journal: bytes
    ends: tuple[tuple[TrunkSpec, EpochReport], ...] = ()  # of the survivors


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What is left of an epoch of a trunk, as it is put on GPUs."""

    trunk: TrunkSpec
    epoch: int
    seconds: float
    restart_s: float = 0.0


@dataclass
class Cluster:
    """GPUs that are busy, free, or away for a while.

    Those that are idle are not lost; it would change nothing but which of them are busy next.

    Args:
        losses_per_hour: how often each GPU goes away.
        efficiency: what is left of the speed at each doubling of workers.
    """

    gpus: int
    workers_of: dict[Point, int]
    losses_per_hour: float
    efficiency: float
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

    def has_room(self, point: Point) -> bool:
        """Whether a trial of a point can start now."""
        workers = self.workers_of[point]
        return workers <= self.free and (workers == 1 or self.groups_left > 0)

    def start(self, stretch: Stretch) -> None:
        """Take the GPUs of a trial."""
        workers = self.workers_of[point_of(stretch.trunk)]
        self.free -= workers
        self.groups_left -= workers > 1
        self.go_on(stretch)

    def go_on(self, stretch: Stretch) -> None:
        """Train on GPUs that the trial has, until the epoch ends or one of them is lost."""
        workers = self.workers_of[point_of(stretch.trunk)]
        lasts, done = stretch.restart_s + stretch.seconds, None
        if self.losses_per_hour:
            until_loss = self.rng.exponential(3600 / self.losses_per_hour / workers)
            if until_loss < lasts:
                lasts, done = until_loss, max(0.0, until_loss - stretch.restart_s)
        self.busy_s += workers * lasts
        heapq.heappush(self._events, (self.now + lasts, next(self._numbers), stretch, done))

    def release(self, trunk: TrunkSpec) -> None:
        """Give the GPUs of a trial back."""
        workers = self.workers_of[point_of(trunk)]
        self.free += workers
        self.groups_left += workers > 1

    def restart(self) -> bool:
        """Start a trial that was lost, if there is one and room for it."""
        if not self.interrupted or not self.has_room(point_of(self.interrupted[0].trunk)):
            return False
        self.start(self.interrupted.pop(0))
        return True

    def next_end(self) -> Stretch | None:
        """Turn the clock to the next epoch's end, or to GPUs that are free; None: it is these."""
        self.now, _, stretch, done = heapq.heappop(self._events)
        if stretch is None:
            self.free += 1
            return None
        if done is None:
            return stretch
        saved = done // SAVE_EVERY_S * SAVE_EVERY_S
        self.interrupted.append(
            Stretch(
                trunk=stretch.trunk,
                epoch=stretch.epoch,
                seconds=stretch.seconds - saved,
                restart_s=RESTART_S,
            )
        )
        self.release(stretch.trunk)
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

    def epoch(self, trunk: TrunkSpec, epoch: int, plan: Plan) -> Stretch:
        """Make a stretch of a whole epoch."""
        seconds = nominal_epoch_s(plan, point_of(trunk), epoch)
        speed = group_speed(self.workers_of[point_of(trunk)], self.efficiency)
        return Stretch(trunk=trunk, epoch=epoch, seconds=seconds / speed)


def simulate(
    plan: Plan,
    gpus: int,
    curves: Curves,
    budget_s: float | None = None,
    *,
    ranked: bool = True,
    losses_per_hour: float = 0.0,
    spread: float | None = None,
) -> Outcome:
    """Run phase 1 on so many GPUs: a trial on each, and some queued where there are several.

    A trunk that is spread waits for as many GPUs as it has workers, and those behind it for it.

    Args:
        budget_s: the seconds that there are; None: as many as it takes.
        ranked: whether what gains most per second comes next; else the order is that of a sweep
            without a budget, which is stopped when the seconds are over.
        losses_per_hour: how often each GPU goes away.
        spread: what is left of the speed at each doubling of workers; None: nothing is spread.
    """
    batches = dict.fromkeys(plan.points, plan.spec.trunks.batch_size // 2)
    groups = spread_trunks(plan, gpus, batches, spread) if spread else {}
    cluster = Cluster(
        gpus,
        {p: groups[p].workers if p in groups else 1 for p in plan.points},
        losses_per_hour,
        spread or 1.0,
        np.random.default_rng(plan.spec.run.seed),
    )
    asked: list[bool] = []  # of each proposal, whether TPE made it
    workers = Workers(plan, curves)
    trunk_scheduler.propose = partial(_propose, asked)
    trunk_scheduler.recorded_reports = lambda _, key: workers.reports[key]
    trunk_scheduler.finalize_trunk = _leave_weights if plan.cascading else lambda *_: None
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        store = Store(Path(root))
        if budget_s is None or not ranked:
            scheduler = TrunkScheduler(plan, store, Events())
        else:
            scheduler = _budgeted(plan, store, cluster, budget_s)
        _run(plan, scheduler, workers, cluster, math.inf if budget_s is None else budget_s)
        assert scheduler.is_over or budget_s is not None
        journal = store.journal.read_bytes() if store.journal.exists() else b""
    ends = {trunk: workers.reports[trunk.key][-1] for trunk in scheduler.survivors()}
    best = max(ends, key=lambda trunk: ends[trunk].val[trunk.train_res].hits1, default=None)
    return Outcome(
        epochs=workers.epochs,
        gpu_s=cluster.busy_s,
        elapsed_s=cluster.now,
        idle=cluster.idle,
        losses=len(cluster.lost_at),
        winner=math.nan if best is None else workers.top1(best),
        by_tpe=float(np.mean(asked)) if asked else 0.0,
        journal=journal,
        ends=tuple(ends.items()),
    )


def _leave_weights(store: Store[Path], key: str, _: TrunkStatus) -> None:
    """Leave what a trunk that starts from this one looks for."""
    store.trunk(key).mkdir(parents=True, exist_ok=True)
    (store.trunk(key) / "trunk.safetensors").touch()


def _propose(
    asked: list[bool], search: Search, point: Point, history: Sequence[Trial], **how: Any
) -> Draw:
    """Propose as the product does, and note whether TPE does."""
    told = sum(bool(trial.values) or not trial.running for trial in history)
    is_first = not any(trial.point == point for trial in history)
    asked.append(search.searcher == "tpe" and told >= STARTUP_TRIALS and not is_first)
    return proposals.propose(search, point, history, **how)


def _budgeted(plan: Plan, store: Store[Path], cluster: Cluster, budget_s: float) -> BudgetedTrunks:
    durations: Any = KnownDurations(plan)
    shares = Shares(trunks={}, cells={}, trunks_at_a_time=cluster.gpus)
    budget = Budget(plan, durations, lambda: Left(elapsed_s=budget_s - cluster.now), shares)
    return BudgetedTrunks(plan, store, Events(), budget)


def _run(
    plan: Plan, scheduler: TrunkScheduler, workers: Workers, cluster: Cluster, budget_s: float
) -> None:
    """Hand out trials and report their epochs, until nothing is left or the time is over."""
    queued: list[Point] = []
    while True:
        while cluster.free > 0:
            if cluster.interrupted:
                if not cluster.restart():
                    break
                continue
            room = cluster.free if cluster.gpus == 1 else cluster.free + QUEUED
            while len(queued) < room and (point := scheduler.queue()) is not None:
                queued.append(point)
            if not queued:
                break
            point = min(queued, key=scheduler.urgency)
            if not cluster.has_room(point):
                break
            queued.remove(point)
            trunk = scheduler.begin(point)
            if trunk is not None:
                epoch = scheduler.epochs_reported(trunk) + 1
                cluster.start(cluster.epoch(trunk, epoch, plan))
        if cluster.is_quiet and not queued:
            return
        ended = cluster.next_end()
        if cluster.now > budget_s:
            return
        if ended is None:
            continue
        if scheduler.report(ended.trunk, workers.train(ended.trunk, ended.epoch)):
            cluster.go_on(cluster.epoch(ended.trunk, ended.epoch + 1, plan))
        else:
            cluster.release(ended.trunk)
