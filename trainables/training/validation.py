"""Logits of a test view: by all workers, in as many batches as a device's memory asks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from trainables.errors import SweepError
from trainables.evaluation.inference import logits_of
from trainables.models.variants import Preprocessing
from trainables.training.distributed import WorkerGroup


def shared_logits(
    model: nn.Module,
    view: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
    group: WorkerGroup,
    should_stop: Callable[[], bool],
) -> torch.Tensor | None:
    """(N, R, R, 3) uint8 -> (N, C) float32 logits on the CPU, the model in eval mode.

    Each worker takes every ``world``-th image; all get all logits, in order. Where memory runs out,
    a worker halves its batch.

    Args:
        should_stop: asked before each batch.

    Returns:
        None where any worker was interrupted.

    Raises:
        SweepError: not even a single image fits into memory.
    """
    parts = _BatchedLogits(model, preprocessing, batch_size, device)
    share = parts.of(view[group.rank :: group.world_size], should_stop)
    (ends,) = group.any_true(share is None)
    return None if share is None or ends else group.gather_rows(share, len(view))


class _BatchedLogits:
    """Batches, smaller once memory has run out."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, size: int, device: torch.device
    ):
        self._model, self._preprocessing = model, preprocessing
        self._size, self._device = size, device

    def of(self, view: np.ndarray, should_stop: Callable[[], bool]) -> torch.Tensor | None:
        """(n, R, R, 3) uint8 -> (n, C) float32 on the CPU; None: interrupted."""
        found: list[torch.Tensor] = []
        start = 0
        while start < len(view):
            if should_stop():
                return None
            logits = self._attempt(view[start : start + self._size])
            if logits is None:
                self._halve(view.shape[1])
            else:
                found.append(logits)
                start += len(logits)
        return torch.cat(found)

    def _attempt(self, batch: np.ndarray) -> torch.Tensor | None:
        """None: memory ran out."""
        try:
            return logits_of(
                self._model,
                batch,
                self._preprocessing,
                batch_size=len(batch),
                device=self._device,
            )
        except torch.OutOfMemoryError:  # unnamed: its trace would hold on to the memory
            return None

    def _halve(self, res: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._size == 1:
            raise SweepError(
                f"Memory runs out with a single image of {res} px: test at a lower --test-res, "
                "leave out the largest variants, or give trials GPUs with more memory."
            )
        self._size = -(-self._size // 2)
