import pytest
import torch

from trainables.errors import UserError
from trainables.models import device
from trainables.models.device import copies_ahead, use_speed_ups
from trainables.models.speed_ups import check_speed_ups


@pytest.mark.parametrize("name", ["cuda_graph", "cudnn_benchmark", "copy_stream"])
def test_what_is_of_gpus_is_refused_on_a_cpu(name):
    with pytest.raises(UserError, match=rf"`speed_ups` {name} is of GPUs"):
        check_speed_ups((name,), on_gpu=False)
    check_speed_ups((name, "cudnn_benchmark"), on_gpu=True)
    check_speed_ups(("compile",), on_gpu=False)


def test_a_net_is_either_compiled_or_recorded():
    with pytest.raises(UserError, match="exclude each other"):
        check_speed_ups(("compile", "cuda_graph"), on_gpu=True)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_cudnn_tries_its_algorithms_out_where_that_is_asked_for(monkeypatch, on_gpu):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    use_speed_ups(["cudnn_benchmark"] if on_gpu else [])
    assert torch.backends.cudnn.benchmark == on_gpu
    use_speed_ups(())
    assert not torch.backends.cudnn.benchmark


def test_batches_are_copied_ahead_to_a_gpu_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(device, "_copies_ahead", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for asked in (("copy_stream",), ("cuda_graph", "copy_stream"), ("cuda_graph",), ()):
        use_speed_ups(asked)
        assert copies_ahead(torch.device("cuda")) == ("copy_stream" in asked)
        assert not copies_ahead(torch.device("cpu"))
