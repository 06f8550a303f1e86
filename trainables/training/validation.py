"""Logits of a view by all workers together, in batches that fit into the device's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from trainables.evaluation.inference import batches_of, logits_of_batch
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.memory_fit import MemoryFit
from trainables.models.out_of_memory import running_out_told
from trainables.models.transfer import host_memory
from trainables.models.variants import Preprocessing
from trainables.training.distributed import WorkerGroup


def shared_logits(
    model: Net,
    view: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
    group: WorkerGroup,
    should_stop: Callable[[], bool],
) -> torch.Tensor | None:
    """Run the model over a view: (N, R, R, 3) uint8 -> (N, C) float32 logits on the CPU, in order.

    Each worker takes every ``world_size``-th image; all get all logits. Where memory runs out, a
    worker halves its batch. The model is put into evaluation mode; its arithmetic is that of
    :func:`.logits_of`.

    Args:
        should_stop: asked before each batch.

    Returns:
        None where any worker was to stop.

    Raises:
        SweepError: not even a single image fits into memory.
    """
    error = (
        f"Memory runs out with a single image of {view.shape[1]} px: test at a lower `test_res`, "
        "leave out the largest variants, or give trials GPUs with more memory."
    )
    fit = MemoryFit(device, minimum=1, error=error)
    share = view[group.rank :: group.world_size]
    model.eval()

    def logits_by_batch() -> Iterator[torch.Tensor]:
        start = 0
        while start < len(share) and not should_stop():
            size = fit.batch_size or batch_size
            for logits in _logits_while_they_fit(model, share[start:], size, preprocessing, device):
                yield logits
                start += len(logits)
                if should_stop():
                    return
            if start < len(share):
                fit.halve(batch_size)

    logits = list(host_memory.read_behind(logits_by_batch()))
    (stopped,) = group.any_true(sum(map(len, logits)) < len(share))
    # With more workers than images some have none, and take part in the exchange nevertheless.
    rows = torch.cat([torch.empty(0, backbone.classifier_of(model).out_features), *logits])
    return None if stopped else group.gather_rows(rows, len(view))


@torch.inference_mode()
def _logits_while_they_fit(
    model: Net,
    view: np.ndarray,
    batch_size: int,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Give the logits of each batch, on the device, up to the one that memory runs out at."""
    try:
        with running_out_told():
            for x in batches_of(view, batch_size, preprocessing, device):
                yield logits_of_batch(model, x)
    except torch.OutOfMemoryError:  # not bound to a name: its trace would keep the memory
        pass
