import threading

import numpy as np
import pytest
import torch

from tests import waiting
from trainables.models.transfer import host_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_a_copy_is_equal_and_a_read_only_array_stays_as_it_is(dtype):
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    array.flags.writeable = False
    [made] = host_memory.filled_ahead([array[:, 1:]], CPU)
    assert np.array_equal(made.numpy(), array[:, 1:]) and made.numpy().dtype == dtype
    made.zero_()
    assert array.sum() == 276


@pytest.mark.parametrize("threads", [1, 3, 64])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_large_array_is_filled_whole_by_several_threads(monkeypatch, threads, rows):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    filled_by, copyto = set(), np.copyto

    def copy(*arrays):
        filled_by.add(threading.get_ident())
        both.wait(waiting.HANG_S)
        copyto(*arrays)

    both = threading.Barrier(min(threads, 4))
    monkeypatch.setattr(np, "copyto", copy)
    array = np.random.default_rng(0).integers(0, 256, (rows, 2**22 // rows), dtype=np.uint8)
    [made] = host_memory.filled_ahead([array], CPU)
    assert np.array_equal(made.numpy(), array)
    assert len(filled_by) == both.parties


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_batches_are_filled_in_order_and_a_few_ahead(count):
    read = []

    def arrays():
        for number in range(count):
            read.append(number)
            yield np.full((number % 3, 2), number)

    found = host_memory.filled_ahead(arrays(), CPU)
    for number, batch in enumerate(found):
        assert batch.tolist() == [[number] * 2] * (number % 3)
        assert len(read) <= number + 4
    assert len(read) == count


def test_batches_that_nobody_takes_are_let_go():
    threads = threading.active_count()
    found = host_memory.filled_ahead(np.zeros((50, 3, 2)), CPU)
    next(found)
    del found
    assert threading.active_count() == threads


def test_a_batch_that_cannot_be_read_ends_the_pass():
    def arrays():
        yield np.ones(2)
        raise OSError("a disk is gone")

    with pytest.raises(OSError, match="a disk is gone"):
        list(host_memory.filled_ahead(arrays(), CPU))


def test_outputs_are_read_once_the_next_is_made():
    made = []

    def outputs():
        for number in range(4):
            made.append(number)
            yield torch.full((2,), number)

    read = []
    for output in host_memory.read_behind(outputs()):
        read.append(output.tolist())
        assert made[-1] == min(3, len(read))
    assert read == [[number] * 2 for number in range(4)]


@pytest.mark.parametrize(("device", "is_locked"), [("cpu", False), ("cuda", True)])
def test_memory_is_locked_where_a_gpu_copies_from_it(monkeypatch, device, is_locked):
    asked = []
    monkeypatch.setattr(torch, "empty", lambda *_, **named: asked.append(named["pin_memory"]))
    host_memory.empty((2, 3), torch.uint8, torch.device(device))
    assert asked == [is_locked]


PARTS = [((3, 5, 3), torch.uint8), ((3,), torch.int64), ((0, 2), torch.float32)]


def test_what_is_packed_lies_in_one_piece_and_does_not_overlap():
    tensors = host_memory.packed(PARTS, CPU)
    assert [(tuple(t.shape), t.dtype) for t in tensors] == PARTS
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    for number, tensor in enumerate(tensors):
        tensor.fill_(number + 1)
    assert [set(t.flatten().tolist()) for t in tensors] == [{1}, {2}, set()]


@pytest.mark.parametrize("packed", [True, False])
def test_copies_are_equal_and_of_one_piece_in_one_piece(monkeypatch, packed):
    tensors = host_memory.packed(PARTS, CPU)
    if not packed:
        tensors = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    copied, to = [], torch.Tensor.to

    def to_another(tensor, device, *, non_blocking):
        assert non_blocking
        copied.append(tensor.nbytes)
        return to(tensor, device, copy=True)

    monkeypatch.setattr(torch.Tensor, "to", to_another)
    found = host_memory.copied(tensors, CPU)
    assert len(copied) == (1 if packed else 3)
    for one, other in zip(found, tensors, strict=True):
        assert one.data_ptr() != other.data_ptr() or not one.numel()
        assert one.dtype == other.dtype and torch.equal(one, other)
