"""Make batches in memory of the host that a GPU copies from by itself, and read what it makes.

Such memory is locked to its place. From and to any other a copy is made in between, and the host
waits for it. PyTorch keeps what is freed for the next batch of its size, once the copy from it is
over; that it knows by the tensor, so that no batch is to be copied through a numpy array of its
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from trainables.models.device import kind_of
from trainables.models.transfer.ahead import made_ahead

_ALIGNMENT = 64  # bytes, at a multiple of which each tensor of a piece begins
_FILLED_AHEAD = 2  # batches
_FILLING_THREADS = 4  # at most; with more of them the memory sets the pace
_LEAST_FILLED = 2**20  # bytes that are worth a thread

# A tensor's shape, its dtype, and the parts of the work that fills it.
Wanted = tuple[tuple[int, ...], torch.dtype, Sequence[Callable[[np.ndarray], None]]]


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


def filled_ahead(arrays: Iterable[np.ndarray], device: torch.device) -> Iterator[torch.Tensor]:
    """Copy arrays into such memory by threads, each while those before it are used.

    A file that is mapped into memory is read from its disk in that time too. All threads fill one
    array, then the next: the first is waited for.
    """
    threads = min(_FILLING_THREADS, torch.get_num_threads())

    def wanted(array: np.ndarray) -> Wanted:
        shares = np.array_split(array, min(threads, 1 + array.nbytes // _LEAST_FILLED))

        def copied_to(out: np.ndarray, number: int) -> None:
            np.copyto(np.array_split(out, len(shares))[number], shares[number])

        work = [partial(copied_to, number=i) for i in range(len(shares))]
        return array.shape, dtype_of(array), work

    yield from filled_by_threads(map(wanted, arrays), device, threads=threads, ahead=_FILLED_AHEAD)


def dtype_of(array: np.ndarray) -> torch.dtype:
    """Give the dtype of a tensor with an array's values; it may be read-only."""
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def filled_by_threads(
    wanted: Iterable[Wanted], device: torch.device, *, threads: int, ahead: int
) -> Iterator[torch.Tensor]:
    """Take memory for tensors, and have threads fill each, a few ahead of the one that is used.

    Args:
        wanted: of each tensor its shape, its dtype, and the parts of the work that fills it: each
            is given the whole of its memory.
        ahead: how many are begun beside the one that is waited for.
    """
    pool = ThreadPoolExecutor(threads)

    def begun(one: Wanted) -> Callable[[], torch.Tensor]:
        shape, dtype, work = one
        made = empty(shape, dtype, device)
        running = [pool.submit(part, made.numpy()) for part in work]

        def wait() -> torch.Tensor:
            for part in running:
                part.result()
            return made

        return wait

    try:
        yield from made_ahead(map(begun, wanted), ahead=ahead)
    finally:
        pool.shutdown(cancel_futures=True)


def read_behind(outputs: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Give outputs on the CPU, each once the next is under way: so a GPU has always work to do.

    Each is copied right behind its own work, not behind that of the next.
    """
    last: tuple[torch.Tensor, torch.cuda.Event | None] | None = None
    for output in outputs:
        begun = _reading(output)
        if last is not None:
            yield _read(*last)
        last = begun
    if last is not None:
        yield _read(*last)


def _reading(output: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Begin to copy what a device makes; the event is there once it is copied."""
    if not kind_of(output.device).copies_from_pinned:
        return output.cpu(), None
    there = empty(tuple(output.shape), output.dtype, output.device)
    there.copy_(output, non_blocking=True)
    return there, torch.cuda.current_stream(output.device).record_event()


def _read(there: torch.Tensor, copied: torch.cuda.Event | None) -> torch.Tensor:
    if copied is not None:
        copied.synchronize()
    return there
