"""Choose the device that a net runs on, and the arithmetic there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from trainables.machine import cpu_name

CPU = "CPU"  # begins the name of a device that is one
CUDA_CONTEXT_BYTES = 0.8 * 2**30  # the CUDA context and the libraries' own: none of it is torch's
_gpu_share = 1.0  # of its GPU that is this process's own, as its number of threads is


def pick_device() -> torch.device:
    """Pick the GPU where this process has one (:func:`take_gpu_share`), else the CPU."""
    return torch.device("cuda" if _gpu_share > 0 and torch.cuda.is_available() else "cpu")


def take_gpu_share(share: float) -> None:
    """Say how much of its GPU is this process's own, and bound the memory that it takes to that.

    So no process takes what its neighbours on the GPU were promised: it runs out of memory itself.
    Without a call all of it is, where there is a GPU.

    Args:
        share: of the whole GPU, up to 1; 0: this process is to use none.
    """
    global _gpu_share
    _gpu_share = min(1.0, share)
    if _gpu_share > 0 and torch.cuda.is_available():
        context = CUDA_CONTEXT_BYTES / torch.cuda.get_device_properties().total_memory
        allowed = _gpu_share if _gpu_share == 1 else max(0.0, _gpu_share - context)
        torch.cuda.set_per_process_memory_fraction(allowed)


def device_name(device: torch.device, threads: int, devices: int = 1) -> str:
    """Name what a net runs on, as speeds differ: "CPU ..., 2 threads", "2 x NVIDIA A10G".

    Of a GPU that this process shares with others, the name tells how much is its own
    (:func:`take_gpu_share`), as each is slower there than alone: "NVIDIA A10G, 25 % of it".

    Args:
        threads: that a CPU computes with.
        devices: that share each batch.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if _gpu_share < 1:
            name += f", {100 * _gpu_share:.0f} % of it"
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
