"""The device that nets run on, and their precision there."""

import pytest
import torch

from trainables.models.device import autocast, pick_device


@pytest.mark.parametrize(("has_gpu", "kind"), [(False, "cpu"), (True, "cuda")])
def test_a_gpu_is_picked_where_there_is_one(monkeypatch, has_gpu, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert pick_device() == torch.device(kind)


def test_a_cpu_computes_in_float32():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_gpu_computes_in_bf16():
    context = autocast(torch.device("cuda"))
    assert isinstance(context, torch.autocast)
    assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)
