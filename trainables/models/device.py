"""Choose the device that a net runs on, and the arithmetic there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from trainables.errors import UserError
from trainables.machine import cpu_name
from trainables.models.speed_ups import SpeedUp, check_speed_ups

Precision = Literal["bf16", "fp16", "fp32"]
PrecisionChoice = Precision | Literal["auto"]
_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The least compute capability of NVIDIA's GPUs that have an arithmetic in hardware. An older one
# computes bf16 too, in software, which is slower than float32.
_CAPABILITIES: dict[Precision, tuple[int, int]] = {"bf16": (8, 0), "fp16": (7, 0), "fp32": (0, 0)}
# AMD's GPUs that have bf16, by the names that ROCm has for them: CDNA from the first on, RDNA from
# the third. There, capabilities are no measure.
_BF16_ARCHITECTURES = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """What devices of a kind have."""

    has_half: bool
    """Whether nets run in bf16 or fp16 there, where the device has it in hardware."""
    copies_from_pinned: bool
    """Whether it copies by itself from memory of the host that is locked to its place."""
    has_float64: bool


DEVICE_KINDS: dict[str, DeviceKind] = {
    "cpu": DeviceKind(has_half=False, copies_from_pinned=False, has_float64=True),
    # NVIDIA's, and under ROCm AMD's, which PyTorch calls the same.
    "cuda": DeviceKind(has_half=True, copies_from_pinned=True, has_float64=True),
    # Apple's: memory is the host's.
    "mps": DeviceKind(has_half=False, copies_from_pinned=False, has_float64=False),
}

CPU = "CPU"  # begins the name of a device that is one
CUDA_CONTEXT_BYTES = 0.8 * 2**30  # the CUDA context and the libraries' own: none of it is torch's
LEAST_SHOWN = 0.9  # of the memory that a GPU is sold with, its driver shows as much at least
_gpu_share = 1.0  # of its GPU that is this process's own, as its number of threads is
_copies_ahead = False  # whether batches are copied to the GPU on a stream of their own
_precision: Precision | None = None  # that this process has a GPU compute in; None: its best


def kind_of(device: torch.device) -> DeviceKind:
    """Tell what a device has; what PyTorch has beside those of the table, as a CPU."""
    return DEVICE_KINDS.get(device.type, DEVICE_KINDS["cpu"])


def pick_device() -> torch.device:
    """Pick the GPU where this process has one (:func:`take_gpu_share`), else the CPU."""
    return torch.device("cuda" if _gpu_share > 0 and torch.cuda.is_available() else "cpu")


def named_device(kind: str) -> torch.device:
    """Give this machine's device of a kind, or by "auto" the one that :func:`pick_device` picks.

    Raises:
        UserError: there is none.
    """
    if kind == "auto":
        return pick_device()
    if not torch.get_device_module(kind).is_available():
        raise UserError(f"PyTorch sees no device of the kind {kind} here: give another, or auto.")
    return torch.device(kind)


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
    if gb < LEAST_SHOWN * promised_gb:
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
        there = _precisions(pick_device())
        if _precision not in there:
            raise UserError(
                f"{torch.cuda.get_device_name()} does not compute `precision` {_precision} in "
                f"hardware: give {there[0]}, or auto, or other GPUs."
            )


def use_speed_ups(speed_ups: Sequence[SpeedUp]) -> None:
    """Have this process make use of what speeds training up, as far as it is the process's.

    Raises:
        UserError: it computes on a CPU, and they are of GPUs.
    """
    global _copies_ahead
    check_speed_ups(speed_ups, on_gpu=pick_device().type == "cuda")
    _copies_ahead = "copy_stream" in speed_ups
    torch.backends.cudnn.benchmark = "cudnn_benchmark" in speed_ups


def copies_ahead(device: torch.device) -> bool:
    """Whether batches are copied to a device on a stream of their own (:mod:`.copy_stream`)."""
    return _copies_ahead and device.type == "cuda"


def precision_of(device: torch.device) -> Precision:
    """Tell the arithmetic of nets on a device: fp32 on a CPU."""
    if not kind_of(device).has_half:
        return "fp32"
    return _precision or _precisions(device)[0]


def _precisions(device: torch.device) -> tuple[Precision, ...]:
    """List the arithmetics that a GPU has in hardware, the best first."""
    known: tuple[Precision, ...] = get_args(Precision)
    if torch.version.hip:
        architecture = torch.cuda.get_device_properties(device).gcnArchName
        return known if architecture.startswith(_BF16_ARCHITECTURES) else known[1:]
    capability = torch.cuda.get_device_capability(device)
    return tuple(name for name in known if capability >= _CAPABILITIES[name])


def sums_dtype(device: torch.device) -> torch.dtype:
    """Give the dtype of sums on a device: float64, or float32 where it has no other."""
    return torch.float64 if kind_of(device).has_float64 else torch.float32


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """Convert a tensor to float64, on its device, or on the CPU where that has none."""
    return tensor.to(float64_device(tensor.device), torch.float64)


def float64_device(device: torch.device) -> torch.device:
    """Give the device that float64 is computed on: the device itself, or else the CPU."""
    return device if kind_of(device).has_float64 else torch.device("cpu")


def free_cache(device: torch.device) -> None:
    """Give back what PyTorch holds of a device's memory and does not use."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def device_name(device: torch.device, threads: int, devices: int = 1) -> str:
    """Name what a net runs on, as speeds differ: "CPU ..., 2 threads", "2 x NVIDIA A10G".

    Of a GPU that this process shares with others, the name tells how much is its own
    (:func:`take_gpu_share`), as each is slower there than alone: "NVIDIA A10G, 25 % of it"; and
    the arithmetic, where it is not bf16: "Tesla T4, fp16".

    Args:
        threads: that a CPU computes with.
        devices: that share each batch.
    """
    if device.type == "mps":
        name = f"{cpu_name()}, its GPU"
    elif device.type == "cuda":
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
