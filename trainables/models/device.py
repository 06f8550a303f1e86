"""Choose the device that a net runs on, and the arithmetic there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from trainables.machine import cpu_name

CPU = "CPU"  # begins the name of a device that is one


def pick_device() -> torch.device:
    """Pick the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device, threads: int, devices: int = 1) -> str:
    """Name what a net runs on, as speeds differ: "CPU ..., 2 threads", "2 x NVIDIA A10G".

    Args:
        threads: that a CPU computes with.
        devices: that share each batch.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{CPU} {cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{devices} x {name}" if devices > 1 else name


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Run a block in bf16 on a GPU, where that doubles the speed, and in float32 on a CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def rounded_as_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """Round a weight as :func:`autocast` does on its device."""
    return tensor.bfloat16() if tensor.device.type == "cuda" else tensor


@contextmanager
def float32() -> Iterator[None]:
    """Run a block in float32 throughout: on a GPU without the TF32 that convolutions default to.

    That is the arithmetic that a net is served in.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
