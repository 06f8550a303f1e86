"""Run a model over a view in batches, in evaluation mode, and make logits of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from trainables.data.loader import normalize_on_device
from trainables.data.view_cache import StreamedView
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.transfer import host_memory
from trainables.models.transfer.copy_stream import copied_ahead
from trainables.models.variants import Preprocessing

View = np.ndarray | StreamedView  # (N, R, R, 3) uint8, kept or rendered when it is read


def batches_of(
    view: View, batch_size: int, preprocessing: Preprocessing, device: torch.device
) -> Iterator[torch.Tensor]:
    """Yield a view as normalised batches on the device, in order; the last may be smaller.

    Args:
        view: (N, R, R, 3) uint8.

    Yields:
        (B, 3, R, R) float32, channels last.
    """
    if isinstance(view, StreamedView):
        batches = view.batches(batch_size, device)
    else:
        # The view is a read-only memory map: a batch is copied once, to where it can be moved.
        parts = (view[start : start + batch_size] for start in range(0, len(view), batch_size))
        batches = host_memory.filled_ahead(parts, device)
    for _, (pixels,) in copied_ahead(batches, lambda batch: [batch], device):
        yield normalize_on_device(pixels, preprocessing, device)


@torch.inference_mode()
def outputs_of(
    forward: Callable[[torch.Tensor], torch.Tensor],
    view: View,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """Apply ``forward`` to each batch of a view, and put its outputs together.

    Args:
        forward: (B, 3, R, R) float32 on the device -> (B, ...).
        view: (N, R, R, 3) uint8.

    Returns:
        (N, ...) float32 on the CPU.
    """
    whole: torch.Tensor | None = None
    start = 0
    batches = batches_of(view, batch_size, preprocessing, device)
    for outputs in host_memory.read_behind(forward(x).float() for x in batches):
        if whole is None:  # At its whole size: parts put together in the end take twice as much.
            whole = outputs.new_empty(len(view), *outputs.shape[1:])
        whole[start : start + len(outputs)] = outputs
        start += len(outputs)
    assert whole is not None, "an empty view"
    return whole


def logits_of_batch(model: Net, x: torch.Tensor) -> torch.Tensor:
    """Compute the logits of normalised pixels: (B, 3, R, R) -> (B, C) float32 on their device."""
    return backbone.classify(model, backbone.features(model, x)).float()


def logits_of(
    model: Net,
    view: View,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """Compute the logits of a view: (N, R, R, 3) uint8 -> (N, C) float32 on the CPU.

    The body runs in bf16 on a GPU, the classifier in float32 (:mod:`.backbone`): the arithmetic of
    all scores that compare, at rungs and in cells.

    Args:
        model: on the device; put into evaluation mode.
    """
    model.eval()
    forward = partial(logits_of_batch, model)
    return outputs_of(forward, view, preprocessing, batch_size=batch_size, device=device)
