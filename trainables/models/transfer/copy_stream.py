"""Copy batches to a GPU on a stream of their own, each while the GPU works at the one before it.

Else a copy is queued behind the work that is under way, and the GPU computes nothing in its time.
The host waits for neither. Memory is taken again only when it is free on both streams: PyTorch
knows that of what is copied from by the copy, and of what is copied to by ``record_stream``.

On an NVIDIA H200 that made no difference to training (docs/measured.md): it is one of `speed_ups`,
and off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import torch

from trainables.models.device import copies_ahead
from trainables.models.out_of_memory import running_out_told
from trainables.models.transfer import host_memory

Batch = TypeVar("Batch")
Tensors = Sequence[torch.Tensor]


def copied_ahead(
    batches: Iterable[Batch], tensors_of: Callable[[Batch], Tensors], device: torch.device
) -> Iterator[tuple[Batch, Tensors]]:
    """Give batches with copies of their tensors on the device, each made one batch before.

    Where that is not asked for, the tensors come as they are; so do those of a batch for whose
    copies there is no room.

    Args:
        batches: in memory that the device copies from (:mod:`.host_memory`).
        tensors_of: the tensors of a batch.
    """
    if not copies_ahead(device):
        yield from ((batch, tensors_of(batch)) for batch in batches)
        return
    stream, waiting = _stream_of(device), None
    for batch in batches:
        made = _copied(tensors_of(batch), stream, device)
        if waiting is not None:
            yield waiting[0], _handed_over(*waiting[1:], device)
        waiting = batch, *made
    if waiting is not None:
        yield waiting[0], _handed_over(*waiting[1:], device)


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """Give the stream that batches are copied on, in all passes of this process the same.

    PyTorch keeps memory that is free again for the stream that it was made on.
    """
    return torch.cuda.Stream(device)


def _copied(
    tensors: Tensors, stream: torch.cuda.Stream, device: torch.device
) -> tuple[Tensors, torch.cuda.Event | None]:
    """Begin a copy; the event is there once it is over, and None where there is no copy."""
    try:
        with running_out_told(), torch.cuda.stream(stream):
            return host_memory.copied(tensors, device), stream.record_event()
    except torch.OutOfMemoryError:
        return tensors, None


def _handed_over(
    tensors: Tensors, copied: torch.cuda.Event | None, device: torch.device
) -> Tensors:
    """Have the work that follows wait for a copy, and the copy's memory for that work."""
    if copied is not None:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in tensors:
            tensor.record_stream(computing)
    return tensors
