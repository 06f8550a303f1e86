"""A sweep on a simulated clock: the product decides, and trials take what the cost model says.

An epoch takes what nominal_epoch_s says, shared among the workers of a trunk that is spread, and a
cell what its images through the net take.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_up_sweeps import Curves, cell_seconds, report_of
from benchmarks.simulated_cluster import Cluster, Stretch
from sweeps.execution.spreading import group_speed, spread_trunks
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw, Search
from sweeps.planning.workload import nominal_epoch_s
from sweeps.scheduling import proposals, settled_cells, trunk_scheduler
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.proposals import STARTUP_TRIALS, Trial
from sweeps.scheduling.settled_cells import SettledCells
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.fake_training import Events
from trainables.storage.artifact_store import Store
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

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


def simulate(
    plan: Plan,
    gpus: int,
    curves: Curves,
    budget_s: float | None = None,
    *,
    ranked: bool = True,
    losses_per_hour: float = 0.0,
    spread: float | None = None,
    cells: bool = False,
) -> Outcome:
    """Run a sweep on so many GPUs: a trial on each, and some queued where there are several.

    A trunk that is spread waits for as many GPUs as it has workers, and those behind it for it.

    Args:
        budget_s: the seconds that there are; None: as many as it takes.
        ranked: whether what gains most per second comes next; else the order is that of a sweep
            without a budget, which is stopped when the seconds are over.
        losses_per_hour: how often each GPU goes away.
        spread: what is left of the speed at each doubling of workers; None: nothing is spread.
        cells: whether cells are made too, beside trunks; else there is phase 1 alone.
    """
    batches = dict.fromkeys(plan.points, plan.spec.trunks.batch_size // 2)
    groups = spread_trunks(plan, gpus, batches, spread) if spread else {}
    cluster = Cluster(gpus, losses_per_hour, np.random.default_rng(plan.spec.run.seed))
    asked: list[bool] = []  # of each proposal, whether TPE made it
    workers = Workers(plan, curves)
    trunk_scheduler.propose = partial(_propose, asked)
    for module in (trunk_scheduler, settled_cells):
        module.recorded_reports = lambda _, key: workers.reports[key]
    settled_cells.check_trunks = settled_cells.write_untouched = lambda *_: None
    trunk_scheduler.finalize_trunk = _leave_weights if plan.cascading else lambda *_: None
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        store = Store(Path(root))
        if budget_s is None or not ranked:
            scheduler = TrunkScheduler(plan, store, Events())
        else:
            scheduler = _budgeted(plan, store, cluster, budget_s)
        run = _Run(
            plan,
            scheduler,
            SettledCells(scheduler, CellScheduler(plan, None, store, Events()), store)
            if cells
            else None,
            workers,
            cluster,
            {point: group.workers for point, group in groups.items()},
            spread or 1.0,
        )
        run.until(math.inf if budget_s is None else budget_s)
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


@dataclass
class _Run:
    """Hands out trials and reports what they come to, until nothing is left or the time is over.

    Args:
        cells: None: no cells are made.
        groups: workers of the trunks of points that are spread.
        efficiency: what is left of the speed at each doubling of workers.
    """

    plan: Plan
    trunks: TrunkScheduler
    cells: SettledCells | None
    workers: Workers
    cluster: Cluster
    groups: dict[Point, int]
    efficiency: float

    def until(self, budget_s: float) -> None:
        """Run until nothing is left or so many seconds are over."""
        cluster, queued = self.cluster, list[Point]()
        while True:
            while cluster.free > 0 and self._start_one(queued):
                pass
            if cluster.is_quiet and not queued:
                return
            ended = cluster.next_end()
            if cluster.now > budget_s:
                return
            if ended is not None:
                self._take(ended)

    def _start_one(self, queued: list[Point]) -> bool:
        """Start the trial that comes next; False: none is there, or it has no room yet."""
        cluster = self.cluster
        if cluster.interrupted:
            return cluster.restart()
        room = cluster.free if cluster.gpus == 1 else cluster.free + QUEUED
        while len(queued) < room and (point := self.trunks.queue()) is not None:
            queued.append(point)
        if not queued:
            return self._start_cell()
        point = min(queued, key=self.trunks.urgency)
        if not cluster.has_room(self.groups.get(point, 1)):
            return False
        queued.remove(point)
        trunk = self.trunks.begin(point)
        if trunk is not None:
            cluster.start(self._epoch(trunk, self.trunks.epochs_reported(trunk) + 1))
        return True

    def _start_cell(self) -> bool:
        """Start a cell of a settled point, or of any after the last trunk; False: there is none."""
        if self.cells is None:
            return False
        if self.cluster.is_quiet:
            self.cells.plan_all()
        cell = self.cells.next()
        if cell is not None:
            self.cluster.start(Stretch(seconds=cell_seconds(self.plan, cell)))
        return cell is not None

    def _take(self, ended: Stretch) -> None:
        """Report what a stretch came to; a trunk that goes on keeps its GPUs."""
        trunk = ended.trunk
        if trunk is not None and self.trunks.report(trunk, self.workers.train(trunk, ended.epoch)):
            self.cluster.go_on(self._epoch(trunk, ended.epoch + 1))
        else:
            self.cluster.release(ended)

    def _epoch(self, trunk: TrunkSpec, epoch: int) -> Stretch:
        """Make a stretch of a whole epoch."""
        point = point_of(trunk)
        workers = self.groups.get(point, 1)
        seconds = nominal_epoch_s(self.plan, point, epoch) / group_speed(workers, self.efficiency)
        return Stretch(seconds=seconds, workers=workers, trunk=trunk, epoch=epoch)
