"""Batches that are copied ahead are the batches, however late or early a stream does its work."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import pytest
import torch

from trainables.models import device
from trainables.models.transfer import copy_stream, host_memory
from trainables.models.transfer.copy_stream import copied_ahead

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
COUNT, SIZE = 6, 8


class LateGpu:
    """Two streams: copies are made on one, and batches are read on the other when all is queued.

    Copies are made as late as may be, when the reading stream waits for them, or as early as may
    be, at once. Memory is taken again as PyTorch takes it: of a copy's target when it is let go,
    or, where the reading stream was noted, when that stream is through; of its source when the copy
    is over.
    """

    def __init__(self, copies_early: bool):
        self.copies_early, self.has_room = copies_early, True
        self.copying: list[Callable[[], object]] = []
        self.reading: list[Callable[[], object]] = []
        self.free: list[torch.Tensor] = []
        self.noted: set[int] = set()
        self.found: list[list[int]] = []
        self.streams: list[torch.device] = []

    # What PyTorch has of streams and events.

    def stream(self, target: torch.device) -> LateGpu:
        self.streams.append(target)
        return self

    def record_event(self) -> int:
        return len(self.copying)

    def wait_event(self, event: int) -> None:
        self.reading.append(lambda: self._copy_up_to(event))

    @contextmanager
    def chosen(self, stream: object) -> Iterator[None]:
        assert stream is self
        yield

    def note(self, tensor: torch.Tensor, stream: object) -> None:
        assert stream is self
        self.noted.add(tensor.data_ptr())

    # What the device does.

    def copied(self, tensors: Any, target: torch.device) -> list[torch.Tensor]:
        if not self.has_room:
            raise torch.OutOfMemoryError
        return [self._copied(tensor) for tensor in tensors]

    def _copied(self, source: torch.Tensor) -> torch.Tensor:
        memory = self.free.pop() if self.free else torch.full((SIZE,), -1)
        made = memory.view(SIZE)
        self.copying.append(lambda: memory.copy_(source))
        if self.copies_early:
            self._copy_up_to(len(self.copying))
        weakref.finalize(made, self._let_go, memory)
        return made

    def _let_go(self, memory: torch.Tensor) -> None:
        if memory.data_ptr() not in self.noted:
            self.free.append(memory)

    def _copy_up_to(self, event: int) -> None:
        for k in range(event):
            self.copying[k]()
            self.copying[k] = int  # is done

    def read(self, tensor: torch.Tensor) -> None:
        """Queue the reading of a batch: of what is in its memory when the stream comes to it."""
        storage = tensor.untyped_storage()
        memory = torch.empty(0, dtype=tensor.dtype).set_(storage)
        self.reading.append(lambda: self.found.append(memory.tolist()))

    def finish(self) -> list[list[int]]:
        for work in self.reading:
            work()
        return self.found


@pytest.fixture(params=[False, True], ids=["late", "early"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LateGpu]:
    late = LateGpu(request.param)
    monkeypatch.setattr(device, "_copies_ahead", True)
    monkeypatch.setattr(torch.cuda, "Stream", late.stream)
    monkeypatch.setattr(torch.cuda, "stream", late.chosen)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: late)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, stream: late.note(t, stream))
    monkeypatch.setattr(host_memory, "copied", late.copied)
    copy_stream._stream_of.cache_clear()
    yield late
    copy_stream._stream_of.cache_clear()


def batches() -> Iterator[torch.Tensor]:
    """Each in memory of its own; what is let go is taken again by no one here."""
    return (torch.full((SIZE,), k) for k in range(COUNT))


def read_all(gpu: LateGpu, made: Iterator[torch.Tensor]) -> list[list[int]]:
    for _, (copy,) in copied_ahead(made, lambda b: [b], CUDA):
        gpu.read(copy)
    return gpu.finish()


WANTED = [[k] * SIZE for k in range(COUNT)]


def test_batches_are_read_as_they_were_made(gpu):
    assert read_all(gpu, batches()) == WANTED


def test_all_passes_over_a_device_copy_on_one_stream_also_beside_each_other(gpu):
    one, other = (copied_ahead(batches(), lambda b: [b], CUDA) for _ in range(2))
    for (_, (first,)), (_, (second,)) in zip(one, other, strict=True):
        gpu.read(first)
        gpu.read(second)
    assert gpu.finish() == [values for values in WANTED for _ in range(2)]
    assert gpu.streams == [CUDA]
    next(copied_ahead(batches(), lambda b: [b], torch.device("cuda", 1)))
    assert gpu.streams == [CUDA, torch.device("cuda", 1)]


def in_one_memory(_: pytest.MonkeyPatch) -> Iterator[torch.Tensor]:
    """The loader fills one memory again and again, before the copy from it is over."""
    return (memory.fill_(k) for k, memory in enumerate(repeat(torch.empty(SIZE).long(), COUNT)))


def without_waiting(patch: pytest.MonkeyPatch) -> Iterator[torch.Tensor]:
    patch.setattr(LateGpu, "wait_event", lambda *_: None)
    return batches()


def without_noting(patch: pytest.MonkeyPatch) -> Iterator[torch.Tensor]:
    patch.setattr(LateGpu, "note", lambda *_: None)
    return batches()


@pytest.mark.parametrize(
    ("mistake", "shows_early"),
    [(in_one_memory, False), (without_waiting, False), (without_noting, True)],
)
def test_mistakes_show_where_a_stream_is_late_or_early(gpu, monkeypatch, mistake, shows_early):
    found = read_all(gpu, mistake(monkeypatch))
    if gpu.copies_early == shows_early:
        assert found != WANTED


def test_a_copy_is_begun_before_the_batch_ahead_of_it_is_given(gpu):
    made = copied_ahead(batches(), lambda b: [b], CUDA)
    for number, _ in enumerate(made):
        assert len(gpu.copying) == min(number + 2, COUNT)


def test_where_there_is_no_room_for_a_copy_a_batch_comes_as_it_is(gpu):
    gpu.has_room = False
    for number, (batch, (same,)) in enumerate(copied_ahead(batches(), lambda b: [b], CUDA)):
        assert same is batch and batch[0] == number
    assert not gpu.reading


def test_an_error_of_the_loader_is_raised_and_no_batches_are_none(gpu):
    assert list(copied_ahead(iter(()), lambda b: [b], CUDA)) == []
    with pytest.raises(ZeroDivisionError):
        list(copied_ahead((torch.full((SIZE,), 1 // k) for k in (1, 0)), lambda b: [b], CUDA))


@pytest.mark.parametrize(("asked", "kind"), [(False, CUDA), (True, CPU)])
def test_elsewhere_batches_come_as_they_are_and_one_at_a_time(monkeypatch, asked, kind):
    monkeypatch.setattr(device, "_copies_ahead", asked)
    monkeypatch.setattr(copy_stream, "_copied", None)
    asked_for: list[int] = []

    def source() -> Iterator[torch.Tensor]:
        for batch in batches():
            asked_for.append(len(asked_for))
            yield batch

    for number, (batch, (same,)) in enumerate(copied_ahead(source(), lambda b: [b], kind)):
        assert same is batch and asked_for == list(range(number + 1))
