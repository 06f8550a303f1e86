"""Find what earlier sweeps have timed on the device that a plan's trials would run on."""

from __future__ import annotations

import torch

from sweeps.execution.plan_resources import trunk_resources
from sweeps.execution.resources import expected_placement
from sweeps.planning.plan import Plan
from trainables.models.device import device_name
from trainables.profiling.speed_file import DeviceTimings, read_all_timings


def kept_timings(plan: Plan) -> tuple[DeviceTimings, ...]:
    """Read what was timed on the devices that the plan's trials may run on.

    Those are this machine's device, with the threads that a trial gets, or its GPU, whole and in
    shares; or any GPU that was timed, where trials take GPUs and this machine has none. The latest
    comes first.
    """
    placement = expected_placement(plan.spec.resources)
    timed = read_all_timings(plan.spec.cache)
    if not placement.uses_gpus:
        name = device_name(torch.device("cpu"), trunk_resources(plan, placement).cpus)
        return tuple(known for known in timed if known.device == name)
    own = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return tuple(known for known in timed if known.on_gpu and known.device.startswith(own))
