"""Choose the device that a net runs on, and the arithmetic there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def pick_device() -> torch.device:
    """Pick the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Run a block in bf16 on a GPU, where that doubles the speed, and in float32 on a CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def float32() -> Iterator[None]:
    """Run a block in float32 throughout: on a GPU without the TF32 that convolutions default to.

    That is the arithmetic that a net is served in.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
