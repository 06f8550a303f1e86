"""Make the budget of a sweep from its options, and the account of what it spends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sweeps.environment import on_cluster
from sweeps.events.account import Account, Spent, this_command_began
from sweeps.events.durations import Durations
from sweeps.events.event_types import Watcher, Watchers
from sweeps.events.forecast import Forecast, first_forecast, forecast
from sweeps.events.undone import Budgeted, budgeted
from sweeps.execution.device_probe import time_device
from sweeps.execution.plan_resources import cell_resources, trunk_resources
from sweeps.execution.ray_cluster import RayCluster
from sweeps.execution.resources import Placement, TrialResources, expected_placement
from sweeps.execution.timed_devices import kept_timings
from sweeps.planning.options.budget_options import BudgetOptions
from sweeps.planning.options.prices import prices_of
from sweeps.planning.plan import Plan
from sweeps.planning.spec import SweepSpec
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.settled_cells import SettledCells
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from trainables.errors import UserError
from trainables.profiling.speed_file import keep_timings
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.storage.artifact_store import Store
from trainables.storage.fenced_log import FencedLog

# Trials that take longer on a nominal GPU take much longer than the ten seconds of timing a device.
LONG_S = 60.0


def check_budget(spec: SweepSpec) -> None:
    """Check that the budget can be counted where the trials would run.

    Raises:
        UserError: GPU hours are bounded where trials use no GPU.
    """
    uses_gpus = on_cluster() or expected_placement(spec.resources).uses_gpus
    if spec.budget.budget_gpu_hours is not None and not uses_gpus:
        raise UserError(
            f"--budget-gpu-hours {spec.budget.budget_gpu_hours:g} counts GPUs, and trials use none "
            "on this machine: give --budget-hours."
        )


def trial_shares(plan: Plan, placement: Placement) -> Shares:
    """See how much of the devices each kind of trial takes, and how many run at a time."""
    cores = max(1, placement.cluster_resources.cores)
    trunks, cells = trunk_resources(plan, placement), cell_resources(plan, placement, plan.cells)

    def devices(trial: TrialResources) -> float:
        own = trial.gpus if placement.uses_gpus else trial.cpus / cores
        return max(1e-6, own * trial.workers)

    by_trunk = {net: devices(trial) for net, trial in trunks.trial_resources.items()}
    by_cell = {net: devices(trial) for net, trial in cells.trial_resources.items()}
    whole = max(1, placement.cluster_resources.gpus) if placement.uses_gpus else 1
    return Shares(
        trunks=by_trunk,
        cells=by_cell,
        trunks_at_a_time=trunks.concurrency or max(1, int(whole / max(by_trunk.values()))),
        cells_at_a_time=cells.concurrency or max(1, int(whole / max(by_cell.values()))),
    )


def left_of(options: BudgetOptions, spent: Spent) -> Left:
    """Tell what is left of a budget.

    Money is counted in seconds of the dearest device: which of them a trial gets is not known.
    """
    elapsed_s = device_s = math.inf
    if options.budget_hours is not None:
        elapsed_s = 3600 * options.budget_hours - spent.elapsed_s
    if options.budget_gpu_hours is not None:
        device_s = 3600 * options.budget_gpu_hours - spent.all_device_s
    prices = prices_of(options.price_per_hour)
    if options.budget_cost is not None and prices.highest:
        money = options.budget_cost - spent.cost(prices)
        device_s = min(device_s, 3600 * money / prices.highest)
    return Left(elapsed_s=elapsed_s, device_s=device_s)


@dataclass
class Spending:
    """What a sweep spends, may spend and is predicted to spend, and the schedulers that heed it."""

    plan: Plan
    store: Store
    durations: Durations
    account: Account
    budget: Budget | None

    @property
    def forecast(self) -> Forecast:
        """What the sweep was predicted to take when it began."""
        return first_forecast(self.store, self.plan, self.durations)

    def left_s(self, pace: float = 1.0) -> float:
        """Tell in how many seconds the budget is spent; infinite where there is none.

        Args:
            pace: at which devices are taken from now on, as a share of this command's until now.
        """
        left = left_of(self.plan.spec.budget, self.account.spent)
        devices = pace * self.account.devices
        return min(left.elapsed_s, left.device_s / devices if devices > 0 else math.inf)

    def time_device(
        self, context: TrialContext, cluster: RayCluster, say: Callable[[str], None]
    ) -> None:
        """Time a few steps on a device that was never timed, where it matters how fast it is.

        So it does where a budget is to be kept, and where the sweep is long: the time that is left
        would else be told after its first epochs.
        """
        if self.durations.is_measured:
            return
        predicted = forecast(self.plan, self.durations)
        is_long = predicted.trunks_s + predicted.cells_s > LONG_S
        if self.budget is not None or is_long:
            say("speed: this device was never timed, so a few steps are timed now")
            self.durations.learn(time_device(self.plan, context, cluster.placement))

    def trunk_scheduler(self, watcher: Watcher, journal: FencedLog) -> TrunkScheduler:
        """Make the schedule of phase 1."""
        if self.budget is None:
            return TrunkScheduler(self.plan, self.store, watcher, journal)
        return BudgetedTrunks(self.plan, self.store, watcher, self.budget, journal)

    def settled_cells(self, trunks: TrunkScheduler, watcher: Watcher) -> SettledCells:
        """Make the schedule of phase 2; within a budget, the best trunk's cells come first."""
        if self.budget is None:
            cells = CellScheduler(self.plan, None, self.store, watcher)
            return SettledCells(trunks, cells, self.store)
        watchers, fits = Watchers([watcher, self.budget]), self.budget.fits_cell
        cells = CellScheduler(self.plan, None, self.store, watchers, fits)
        return SettledCells(trunks, cells, self.store, best_first=True)

    def undone(self, trunks: TrunkScheduler, cells: CellScheduler) -> Budgeted | None:
        """Say what the budget left undone; None: there is none."""
        said = budgeted(self.plan.spec.budget, self.account.spent)
        if said is None or not isinstance(trunks, BudgetedTrunks):
            return said
        points = tuple(f"{p.variant} at {p.train_res} px" for p in trunks.points_without_result)
        return replace(said, trunks=trunks.trunks_undone, points=points, cells=len(cells.left_out))


@contextmanager
def spending(
    plan: Plan, store: Store, cluster: RayCluster, may_write: Callable[[], bool]
) -> Iterator[Spending]:
    """Count what a sweep spends while the block runs, in whatever way it ends.

    Args:
        may_write: whether this driver may still write to the store.
    """
    began, options = this_command_began(), plan.spec.budget
    placement = cluster.placement if on_cluster() else expected_placement(plan.spec.resources)
    shares = trial_shares(plan, placement)

    def share(variant: str, res: int, trains: bool) -> float:
        return (shares.trunks if trains else shares.cells).get((variant, res), 1.0)

    durations = Durations(plan, kept_timings(plan), command_began=began)
    account = Account(store.spending, began, share, lambda: durations.device)
    budget = None
    if options.is_bounded:
        budget = Budget(plan, durations, lambda: left_of(options, account.spent), shares)
    try:
        yield Spending(plan, store, durations, account, budget)
    finally:
        for timed in durations.timed():
            keep_timings(plan.spec.cache, timed)
        if may_write():
            account.write()


def no_trunk_in_words(spent: Spending) -> str:
    """Say why there is no trunk to go on with."""
    said = budgeted(spent.plan.spec.budget, spent.account.spent)
    if said is None:
        return "No trunk could be trained: see the messages above."
    return (
        f"No trunk was trained to its end ({said.spent_in_words}): raise the budget, and the same "
        "command goes on."
    )
