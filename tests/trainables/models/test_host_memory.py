import numpy as np
import pytest
import torch

from trainables.models import host_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_a_copy_is_equal_and_a_read_only_array_stays_as_it_is(dtype):
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    array.flags.writeable = False
    made = host_memory.filled(array[:, 1:], CPU)
    assert np.array_equal(made.numpy(), array[:, 1:]) and made.numpy().dtype == dtype
    made.zero_()
    assert array.sum() == 276


@pytest.mark.parametrize(("device", "is_locked"), [("cpu", False), ("cuda", True)])
def test_memory_is_locked_where_a_gpu_copies_from_it(monkeypatch, device, is_locked):
    asked = []
    monkeypatch.setattr(torch, "empty", lambda *_, **named: asked.append(named["pin_memory"]))
    host_memory.empty((2, 3), torch.uint8, torch.device(device))
    assert asked == [is_locked]
