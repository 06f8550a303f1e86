"""Time a few training steps where the trials of a plan will run, before the first of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sweeps.execution.plan_resources import trunk_resources
from sweeps.execution.resources import NetAtRes, Placement, TrialResources
from sweeps.planning.plan import Plan
from sweeps.planning.workload import dearest_first
from trainables.models.device import take_gpu_share, use_precision
from trainables.profiling.speed_file import DeviceTimings
from trainables.profiling.speed_probe import time_training
from trainables.ray_backend.tune_trainables import TrialContext

MOST_AT_A_TIME = 4  # more on one machine disturb each other no differently


def time_device(plan: Plan, context: TrialContext, placement: Placement) -> list[DeviceTimings]:
    """Time steps of the cheapest and of the dearest trunk, as many beside each other as trials run.

    Trunks that are spread over several workers are left out. Ray must be running.

    Returns:
        What each process has timed; nothing, where all trunks are spread.
    """
    import ray

    resources = trunk_resources(plan, placement)
    alone = [
        (point.variant, point.train_res)
        for point in dearest_first(plan)
        if resources.trial_resources[point.variant, point.train_res].workers == 1
    ]
    if not alone:
        return []
    nets = list(dict.fromkeys((alone[-1], alone[0])))
    trial = resources.trial_resources[alone[0]]
    batch = max(plan.possible("batch_size"))
    task = ray.remote(_time).options(num_cpus=trial.cpus, num_gpus=trial.gpus)
    count = min(resources.concurrency or 1, MOST_AT_A_TIME)
    running = [task.remote(nets, batch, context, trial) for _ in range(count)]
    timed: list[list[DeviceTimings]] = ray.get(running)
    return [known for process in timed for known in process]


def _time(
    nets: Sequence[NetAtRes], batch: int, context: TrialContext, trial: TrialResources
) -> list[DeviceTimings]:
    """Time steps of nets, in a process of a trial's resources."""
    torch.set_num_threads(trial.cpus)
    take_gpu_share(trial.gpus)
    use_precision(context.precision)
    images = context.open_images()
    return [
        time_training(variant, res, batch, images, context.cache, trial.cpus)
        for variant, res in nets
    ]
