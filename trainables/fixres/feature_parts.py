"""Features that lie in several parts, and rows of them for a device, batch by batch.

The features of a large set are as large as it: those of ImageNet take 3.3 GB for B0 and 14 GB for
L2, in half precision. So they stay in the files that they were written to, which are mapped, and no
more than some batches of them is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from trainables.models.transfer import host_memory

_BATCHES_AHEAD = 4  # by as many threads


@dataclass(frozen=True)
class FeatureParts:
    """The features of images, one part after another."""

    parts: tuple[np.ndarray, ...]  # (n, D), of one dtype; at least one, none of them empty

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.parts)])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D), as of a tensor."""
        return int(self._starts[-1]), self.parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, device: torch.device) -> torch.Tensor:
        """Copy all of them to the device, in one piece."""
        whole: torch.Tensor | None = None
        filled = 0
        for part in host_memory.filled_ahead(self.parts, device):
            if whole is None:
                whole = torch.empty(self.shape, dtype=part.dtype, device=device)
            whole[filled : filled + len(part)].copy_(part, non_blocking=True)
            filled += len(part)
        assert whole is not None, "features without a part"
        return whole

    def take(self, chosen: np.ndarray, out: np.ndarray) -> None:
        """Copy the features at positions ``chosen`` (B,) to ``out`` (B, D)."""
        order = np.argsort(chosen)
        bounds = np.searchsorted(chosen[order], self._starts)
        for part, start, first, end in zip(
            self.parts, self._starts, bounds, bounds[1:], strict=False
        ):
            if first < end:
                places = order[first:end]
                out[places] = part[chosen[places] - start]


Features = torch.Tensor | FeatureParts


def batches_of_rows(
    features: Features, order: torch.Tensor, batch_size: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Give the features of images in an order, batch by batch.

    Features that lie on the device are gathered there, into one buffer, which stays in the
    processor's cache; others by threads ahead of use, into memory that the device copies from.

    Args:
        features: (N, D) float32 or float16.
        order: (M,) int64 on the CPU, positions of images.

    Yields:
        (B, D) float32 on the device, each until the next is asked for; the last may be smaller.
    """
    if isinstance(features, torch.Tensor) and features.device == device:
        buffer = features.new_empty(min(batch_size, len(order)), features.shape[1])
        for chosen in order.to(device).split(batch_size):
            yield torch.index_select(features, 0, chosen, out=buffer[: len(chosen)]).float()
        return
    if isinstance(features, torch.Tensor):
        features = FeatureParts((features.numpy(),))
    dtype, width = host_memory.dtype_of(features.parts[0]), features.shape[1]
    wanted = (
        ((len(chosen), width), dtype, [partial(features.take, chosen.numpy())])
        for chosen in order.split(batch_size)
    )
    for rows in host_memory.filled_by_threads(
        wanted, device, threads=_BATCHES_AHEAD, ahead=_BATCHES_AHEAD
    ):
        yield rows.to(device, non_blocking=True).float()
