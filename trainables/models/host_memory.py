"""Make batches in memory of the host that a GPU copies from by itself.

Such memory is locked to its place. From any other, a copy is made in between, and the host waits
for it. PyTorch keeps what is freed for the next batch of its size, once the copy from it is over;
that it knows by the tensor, so that no batch is to be copied through a numpy array of its memory.
"""

from __future__ import annotations

import numpy as np
import torch

from trainables.models.device import kind_of


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Take memory of the host for a tensor that ``device`` is to have; its values are undefined."""
    is_pinned = kind_of(device).copies_from_pinned
    return torch.empty(shape, dtype=dtype, pin_memory=is_pinned)


def filled(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array, read-only or not, into such memory."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    made = empty(array.shape, dtype, device)
    np.copyto(made.numpy(), array)
    return made
