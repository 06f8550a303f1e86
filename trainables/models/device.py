"""Choose the device that a net runs on, and the arithmetic there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, get_args

import torch

from trainables.errors import UserError
from trainables.machine import cpu_name
from trainables.models.speed_ups import SpeedUp, check_speed_ups

Precision = Literal["bf16", "fp16", "fp32"]
PrecisionChoice = Precision | Literal["auto"]
_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The least compute capability of GPUs that have an arithmetic in hardware. An older one computes
# bf16 too, in software, which is slower than float32.
_CAPABILITIES: dict[Precision, tuple[int, int]] = {"bf16": (8, 0), "fp16": (7, 0), "fp32": (0, 0)}

CPU = "CPU"  # begins the name of a device that is one
CUDA_CONTEXT_BYTES = 0.8 * 2**30  # the CUDA context and the libraries' own: none of it is torch's
ROUNDED = 0.9  # of the memory that a GPU is sold with, its driver shows as much at least
_gpu_share = 1.0  # of its GPU that is this process's own, as its number of threads is
_precision: Precision | None = None  # that this process has a GPU compute in; None: its best


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


def check_gpu_memory(promised_gb: float | None) -> None:
    """Check that this process's GPU has the memory that GPUs are said to have.

    Args:
        promised_gb: 1e9 bytes, by which trials share GPUs; None: nothing is said.

    Raises:
        UserError: it has less, by more than what makers round.
    """
    if promised_gb is None or pick_device().type != "cuda":
        return
    gb = torch.cuda.get_device_properties().total_memory / 1e9
    if gb < ROUNDED * promised_gb:
        raise UserError(
            f"{torch.cuda.get_device_name()} has {gb:.1f} GB, less than the `gpu_memory_gb` "
            f"{promised_gb:g} by which trials share GPUs: give what the smallest one has, or keep "
            "trials to one kind by `accelerator_type`."
        )


def use_precision(precision: PrecisionChoice) -> None:
    """Choose the arithmetic of nets on this process's GPU, if it has one.

    Args:
        precision: "auto" is bf16 where the GPU has it, else fp16, else fp32.

    Raises:
        UserError: the GPU computes it in software alone.
    """
    global _precision
    _precision = None if precision == "auto" else precision
    if _precision is not None and pick_device().type == "cuda":
        best = _best_precision(pick_device())
        if _CAPABILITIES[_precision] > _CAPABILITIES[best]:
            raise UserError(
                f"{torch.cuda.get_device_name()} does not compute `precision` {_precision} in "
                f"hardware: give {best}, or auto, or other GPUs."
            )


def use_speed_ups(speed_ups: Sequence[SpeedUp]) -> None:
    """Have this process make use of what speeds training up, as far as it is the process's.

    Raises:
        UserError: it computes on a CPU, and they are of GPUs.
    """
    check_speed_ups(speed_ups, on_gpu=pick_device().type == "cuda")
    torch.backends.cudnn.benchmark = "cudnn_benchmark" in speed_ups


def precision_of(device: torch.device) -> Precision:
    """Tell the arithmetic of nets on a device: fp32 on a CPU."""
    if device.type != "cuda":
        return "fp32"
    return _precision or _best_precision(device)


def _best_precision(device: torch.device) -> Precision:
    capability = torch.cuda.get_device_capability(device)
    return next(name for name in get_args(Precision) if capability >= _CAPABILITIES[name])


def device_name(device: torch.device, threads: int, devices: int = 1) -> str:
    """Name what a net runs on, as speeds differ: "CPU ..., 2 threads", "2 x NVIDIA A10G".

    Of a GPU that this process shares with others, the name tells how much is its own
    (:func:`take_gpu_share`), as each is slower there than alone: "NVIDIA A10G, 25 % of it"; and
    the arithmetic, where it is not bf16: "Tesla T4, fp16".

    Args:
        threads: that a CPU computes with.
        devices: that share each batch.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if precision_of(device) != "bf16":
            name += f", {precision_of(device)}"
        if _gpu_share < 1:
            name += f", {100 * _gpu_share:.0f} % of it"
    else:
        name = f"{CPU} {cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{devices} x {name}" if devices > 1 else name


def autocast(device: torch.device, *, cached: bool = True) -> AbstractContextManager[object]:
    """Run a block in the arithmetic of the device (:func:`precision_of`).

    Of bf16 and fp16 a GPU does twice as many operations a second as of float32, and more.

    Args:
        cached: whether weights that are trained are cast once a block, and not at each use.
    """
    dtype = _DTYPES.get(precision_of(device))
    if dtype is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=cached)


def rounded_as_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """Round a weight as :func:`autocast` does on its device."""
    return tensor.to(_DTYPES.get(precision_of(tensor.device), tensor.dtype))


@contextmanager
def float32() -> Iterator[None]:
    """Run a block in float32 throughout: on a GPU without the TF32 that convolutions default to.

    That is the arithmetic that a net is served in.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
