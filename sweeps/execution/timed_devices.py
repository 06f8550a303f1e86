"""Find what earlier sweeps have timed on the device that a plan's trials would run on."""

from __future__ import annotations

import torch

from sweeps.execution.plan_resources import trunk_resources
from sweeps.execution.resources import expected_placement
from sweeps.planning.plan import Plan
from trainables.models.device import device_name, pick_device
from trainables.profiling.speed_file import DeviceTimings, read_all_timings


def kept_timings(plan: Plan) -> tuple[DeviceTimings, ...]:
    """Read what was timed on the devices that the plan's trials may run on.

    Those are this machine's device, with the threads that a trial gets; or any GPU that was timed,
    the latest first, where trials take GPUs and this machine has none.
    """
    placement = expected_placement(plan.spec.resources)
    timed = read_all_timings(plan.spec.cache)
    if placement.uses_gpus and not torch.cuda.is_available():
        return tuple(known for known in timed if known.on_gpu)
    threads = trunk_resources(plan, placement).cpus
    name = device_name(pick_device(), threads)
    return tuple(known for known in timed if known.device == name)
