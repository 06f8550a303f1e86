"""Simulate phase 1 of a sweep on several GPUs: what it spends, what that costs, and who waits.

    python benchmarks/simulate.py --seeds 10
    python benchmarks/simulate.py --grid reference --gpus 1 4 16 64 --seeds 3
    python benchmarks/simulate.py --grid large --gpus 256 1024 --seeds 1 --losses-per-hour 0.1

What decides is the product's own (TrunkScheduler, Halving, Optuna's TPE, the journal). Clock and
trunks are made up: an epoch takes what nominal_ms says, on a GPU for each trial. Learning curves
rise to an accuracy that depends on the hyperparameters, the better the sooner, and by chance (the
standard deviation of the logarithm is --crossing), so that curves cross. Each number is the median
over seeds.

    epochs    trained, of those of all trunks to their end
    GPU time  likewise, and in hours of a GPU, what was lost included; then that of the cells
    regret    points of true top-1 that the winner is behind that of the same sweep without cuts;
              median and 90th percentile
    elapsed   to the end of the last trunk, in times of a trunk of the dearest point
    idle      share of the GPUs' time until then
    TPE       share of the proposals that TPE made, not the middle of the ranges or chance

With --spread E trunks that would outlast others have several workers, as --workers-per-trial
auto decides with that efficiency: E of the speed is left at each doubling. Their GPUs count as
busy, so that what spreading wastes is in GPU time.

With --losses-per-hour each GPU goes away so often, at random; its trial loses the epoch that it was
at and is tried again, and the GPU is back after five minutes.

At the end: whether variants and resolutions in another order change a decision.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.made_up_sweeps import (
    EPOCHS,
    SIZES,
    Size,
    cells_seconds,
    curve,
    dearest_trunk_seconds,
    make_plan,
    top1,
)
from sweeps.execution.resources import MAX_WORKER_GROUPS
from sweeps.execution.spreading import group_speed, spread_trunks
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw
from sweeps.planning.workload import nominal_epoch_s
from sweeps.scheduling import proposals, trunk_scheduler
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.proposals import STARTUP_TRIALS, Trial
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.fake_training import Events, Farm, Training
from trainables.storage.artifact_store import Store
from trainables.storage.hashing import to_jsonable
from trainables.storage.replacing import replacing
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports

AWAY_S = 300.0  # from the loss of a GPU to the next
QUEUED = 16  # trials that wait on a cluster, so that the autoscaler sees them


class Workers(Farm):
    """Save the state of a trunk at rungs alone, where the scheduler may have it ended."""

    def __init__(self, plan: Plan, store: Store[Path], training: Training):
        super().__init__(plan, store, training)
        self._reports: dict[str, list[EpochReport]] = defaultdict(list)  # by key

    def step(self, trunk: TrunkSpec, reported: int) -> EpochReport:
        reports, epoch = self._reports[trunk.key], reported + 1
        if epoch > len(reports):
            reports.append(self.training(self.plan, trunk, epoch))
            self.trained[trunk.key, epoch] += 1
            if epoch in self.plan.spec.rungs_to(trunk.recipe.epochs):
                with replacing(self.store.trunk(trunk.key) / "state.pt") as temporary:
                    torch.save({"model": {}, "reports": to_jsonable(reports)}, temporary)
        return reports[reported]


@dataclass(frozen=True)
class Outcome:
    """What a simulated phase 1 came to."""

    epochs: int
    gpu_s: float
    elapsed_s: float
    winner: float  # its true top-1
    by_tpe: float  # share
    journal: bytes
    ends: tuple[tuple[TrunkSpec, EpochReport], ...] = ()  # of the survivors


class KnownDurations:
    """Predicts what an epoch takes without an error; cells and the end take nothing."""

    close_s = spawn_s = 0.0

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


@dataclass(frozen=True)
class Losses:
    """GPUs that go away and come back.

    Args:
        per_hour: how often each does.
    """

    per_hour: float
    rng: np.random.Generator

    def attempts_s(self, seconds: float, gpus: int) -> Iterator[float]:
        """Yield how long each attempt at that much work lasts; the last one does all of it.

        Args:
            gpus: that it is on; any of them may go away.
        """
        while self.per_hour:
            lasted = self.rng.exponential(3600 / self.per_hour / gpus)
            if lasted >= seconds:
                break
            yield lasted
        yield seconds


def simulate(
    plan: Plan,
    gpus: int,
    crossing: float,
    budget_s: float | None = None,
    *,
    ranked: bool = True,
    losses_per_hour: float = 0.0,
    seeds_sd: float = 0.0,
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
    workers_of = {p: groups[p].workers if p in groups else 1 for p in plan.points}
    losses = Losses(losses_per_hour, np.random.default_rng(plan.spec.run.seed))
    asked: list[bool] = []

    def propose(search: Any, point: Point, history: list[Trial], **how: Any) -> Draw:
        told = sum(bool(trial.values) or not trial.running for trial in history)
        asked.append(told >= STARTUP_TRIALS and any(t.point == point for t in history))
        return proposals.propose(search, point, history, **how)

    trunk_scheduler.propose = propose
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        store = Store(Path(root))
        farm = Workers(plan, store, partial(curve, crossing, seeds_sd=seeds_sd))
        now = busy = 0.0
        scheduler = TrunkScheduler(plan, store, Events())
        if budget_s is not None and ranked:
            durations: Any = KnownDurations(plan)
            shares = Shares(trunks={}, cells={}, trunks_at_a_time=gpus)
            budget = Budget(plan, durations, lambda: Left(elapsed_s=budget_s - now), shares)
            scheduler = BudgetedTrunks(plan, store, Events(), budget)
        free, groups_left, queued = gpus, MAX_WORKER_GROUPS, list[Point]()
        running: list[tuple[float, int, TrunkSpec, int]] = []  # ends at, number, trunk, epoch
        numbers = iter(range(10**9))

        def train(trunk: TrunkSpec, epoch: int) -> None:
            """Take GPUs for an epoch, however often they are lost."""
            nonlocal busy
            workers = workers_of[point_of(trunk)]
            seconds = nominal_epoch_s(plan, point_of(trunk), epoch)
            seconds /= group_speed(workers, spread or 1.0)
            attempts = list(losses.attempts_s(seconds, workers))
            busy += workers * sum(attempts)
            ends_at = now + sum(attempts) + AWAY_S * (len(attempts) - 1)
            heapq.heappush(running, (ends_at, next(numbers), trunk, epoch))

        while True:
            while free:
                room = free if gpus == 1 else free + QUEUED
                while len(queued) < room and (point := scheduler.queue()) is not None:
                    queued.append(point)
                if not queued:
                    break
                point = min(queued, key=scheduler.urgency)
                is_group = workers_of[point] > 1
                if workers_of[point] > free or (is_group and groups_left == 0):
                    break
                queued.remove(point)
                trunk = scheduler.begin(point)
                if trunk is not None:
                    train(trunk, scheduler.epochs_reported(trunk) + 1)
                    free -= workers_of[point]
                    groups_left -= is_group
            if not running:
                break
            now, _, trunk, epoch = heapq.heappop(running)
            if budget_s is not None and now > budget_s:
                break
            if scheduler.report(trunk, farm.step(trunk, epoch - 1)):
                train(trunk, epoch + 1)
            else:
                free += workers_of[point_of(trunk)]
                groups_left += workers_of[point_of(trunk)] > 1
        assert scheduler.is_over or budget_s is not None
        ends = {t.key: recorded_reports(store, t.key)[-1] for t in scheduler.survivors()}
        if not ends:
            return Outcome(len(farm.trained), busy, now, math.nan, 0.0, b"")
        best = max(scheduler.survivors(), key=lambda t: ends[t.key].val[t.train_res].hits1)
        return Outcome(
            epochs=len(farm.trained),
            gpu_s=busy,
            elapsed_s=now,
            winner=top1(best, ends[best.key].epoch, crossing),
            by_tpe=float(np.mean(asked)),
            journal=store.journal.read_bytes(),
            ends=tuple((trunk, ends[trunk.key]) for trunk in scheduler.survivors()),
        )


def line(
    size: Size,
    grace: int,
    gpus: int,
    crossing: float,
    uncut: list[Outcome],
    **how: Any,
) -> str:
    ours = [
        simulate(make_plan(size, seed, grace), gpus, crossing, **how) for seed in range(len(uncut))
    ]
    regret = [100 * (u.winner - o.winner) for o, u in zip(ours, uncut, strict=True)]
    epochs = np.median([o.epochs for o in ours])
    gpu_s = np.median([o.gpu_s for o in ours])
    idle = np.median([1 - o.gpu_s / (gpus * o.elapsed_s) for o in ours])
    by_tpe = np.median([o.by_tpe for o in ours])
    plan = make_plan(size, 0, grace)
    elapsed = np.median([o.elapsed_s for o in ours]) / dearest_trunk_seconds(plan)
    return (
        f"| {grace} | {gpus} | {epochs:,.0f} of {uncut[0].epochs:,} | {gpu_s / uncut[0].gpu_s:.0%} "
        f"| {gpu_s / 3600:,.1f} | {cells_seconds(plan) / 3600:.1f} "
        f"| {np.median(regret):.2f}, {np.quantile(regret, 0.9):.2f} | {elapsed:.2f} | {idle:.0%} "
        f"| {by_tpe:.0%} |"
    )


def budget_line(size: Size, seeds: int, share: float, gpus: int, crossing: float) -> str:
    """Compare sweeps that have a share of the time that they would take."""
    whole = [simulate(make_plan(size, seed, 1), gpus, crossing) for seed in range(seeds)]
    cells = []
    for ranked in (True, False):
        ours = [
            simulate(make_plan(size, seed, 1), gpus, crossing, share * w.elapsed_s, ranked=ranked)
            for seed, w in enumerate(whole)
        ]
        regret = [100 * (w.winner - o.winner) for o, w in zip(ours, whole, strict=True)]
        known = [r for r in regret if not math.isnan(r)]
        over = max(o.elapsed_s / (share * w.elapsed_s) for o, w in zip(ours, whole, strict=True))
        quantiles = (
            f"{np.median(known):.2f}, {np.quantile(known, 0.9):.2f}" if known else "no trunk"
        )
        cells += [quantiles, f"{len(regret) - len(known)}", f"{over:.2f}"]
    return f"| {share:.0%} | {gpus} | {' | '.join(cells)} |"


def journal(size: Size, seed: int, grace: int, crossing: float, *, turned: bool = False) -> bytes:
    return simulate(make_plan(size, seed, grace, turned=turned), 1, crossing).journal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--grid", choices=SIZES, default="small", help="how large the sweep is")
    parser.add_argument("--seeds", type=int, default=10, help="sweeps for each number")
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 4, 16], help="how many of them")
    parser.add_argument("--grace", type=int, nargs="*", default=[1, 2], help="first rungs, epochs")
    parser.add_argument("--budget", type=float, nargs="*", default=[], help="shares of the time")
    parser.add_argument("--crossing", type=float, default=0.2, help="how much curves cross")
    parser.add_argument("--spread", type=float, help="of the speed, left where workers double")
    parser.add_argument("--losses-per-hour", type=float, default=0.0, help="of each GPU")
    args = parser.parse_args()
    os.fsync = lambda _: None  # no power is cut here
    size, crossing = SIZES[args.grid], args.crossing
    how = {"losses_per_hour": args.losses_per_hour, "spread": args.spread}
    for row in (
        "| grace | GPUs | epochs | GPU time | hours | of cells | regret | elapsed | idle | TPE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ):
        print(row, flush=True)
    uncut = [simulate(make_plan(size, seed, EPOCHS), 1, crossing) for seed in range(args.seeds)]
    for grace in args.grace:
        for gpus in args.gpus:
            print(line(size, grace, gpus, crossing, uncut, **how), flush=True)
    same = [
        journal(size, seed, grace, crossing) == journal(size, seed, grace, crossing, turned=True)
        for grace in args.grace
        for seed in range(min(3, args.seeds))
    ]
    if args.budget:
        print("\n| budget | GPUs | regret | none | used | in order: regret | none | used |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
    for share in args.budget:
        for gpus in args.gpus:
            print(budget_line(size, args.seeds, share, gpus, crossing), flush=True)
    print(f"typed the other way round: {sum(same)} of {len(same)} journals the same")


if __name__ == "__main__":
    main()
