"""Make batches in memory of the host that a GPU copies from by itself.

Such memory is locked to its place. From any other, a copy is made in between, and the host waits
for it. PyTorch keeps what is freed for the next batch of its size, once the copy from it is over;
that it knows by the tensor, so that no batch is to be copied through a numpy array of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from trainables.models.device import kind_of

_ALIGNMENT = 64  # bytes, at a multiple of which each tensor of a piece begins


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Take memory of the host for a tensor that ``device`` is to have; its values are undefined."""
    is_pinned = kind_of(device).copies_from_pinned
    return torch.empty(shape, dtype=dtype, pin_memory=is_pinned)


def packed(
    parts: Sequence[tuple[tuple[int, ...], torch.dtype]], device: torch.device
) -> list[torch.Tensor]:
    """Take memory for several tensors in one piece, which :func:`copied` copies at once."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in parts]
    starts = [0]
    for size in sizes:
        starts.append(-(-(starts[-1] + size) // _ALIGNMENT) * _ALIGNMENT)
    memory = empty((starts[-1],), torch.uint8, device)
    return [
        memory[start : start + size].view(dtype).view(shape)
        for start, size, (shape, dtype) in zip(starts, sizes, parts, strict=False)
    ]


def copied(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Copy tensors to the device, at once where :func:`packed` has made them together."""
    memory = tensors[0].untyped_storage()
    if len(tensors) == 1 or any(
        tensor.untyped_storage().data_ptr() != memory.data_ptr() for tensor in tensors
    ):
        return [tensor.to(device, non_blocking=True) for tensor in tensors]
    whole = torch.empty(0, dtype=torch.uint8).set_(memory).to(device, non_blocking=True)
    return [
        whole[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for tensor in tensors
        for start in [tensor.storage_offset() * tensor.itemsize]
    ]


def filled(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array, read-only or not, into such memory."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    made = empty(array.shape, dtype, device)
    np.copyto(made.numpy(), array)
    return made
