"""The device that nets run on, and their precision there."""

import pytest
import torch

from trainables.errors import UserError
from trainables.models import device
from trainables.models.device import (
    CUDA_CONTEXT_BYTES,
    autocast,
    check_gpu_memory,
    device_name,
    named_device,
    pick_device,
    precision_of,
    take_gpu_share,
    use_precision,
)


class Card:
    """A GPU of 16 GB that stands in for CUDA's."""

    total_memory = 16e9

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 0)
    ) -> None:
        self.allowed = 1.0
        monkeypatch.setattr(device, "_gpu_share", 1.0)
        monkeypatch.setattr(device, "_precision", None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA T4")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: self)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self.allow)

    def allow(self, fraction: float) -> None:
        self.allowed = fraction


@pytest.mark.parametrize("trials", [2, 3, 4])
def test_trials_that_share_a_gpu_fit_into_it_together(monkeypatch, trials):
    card = Card(monkeypatch)
    take_gpu_share(1 / trials)
    each = card.allowed * card.total_memory + CUDA_CONTEXT_BYTES
    assert trials * each == pytest.approx(card.total_memory)


def test_a_share_of_a_gpu_is_a_device_of_its_own(monkeypatch):
    card, gpu = Card(monkeypatch), torch.device("cuda")
    assert device_name(gpu, 4) == "NVIDIA T4"
    take_gpu_share(0.25)
    assert device_name(gpu, 4) == "NVIDIA T4, 25 % of it"
    take_gpu_share(1.0)  # the next trial in this process
    assert device_name(gpu, 4, devices=2) == "2 x NVIDIA T4" and card.allowed == 1.0


@pytest.mark.parametrize("promised_gb", [None, 8.0, 16.0, 17.5])
def test_a_gpu_may_have_a_little_less_than_it_is_sold_with(monkeypatch, promised_gb):
    Card(monkeypatch)
    check_gpu_memory(promised_gb)


def test_a_gpu_with_less_memory_than_trials_are_shared_out_by_is_refused(monkeypatch):
    Card(monkeypatch)
    with pytest.raises(UserError, match=r"NVIDIA T4 has 16.0 GB, less than the `gpu_memory_gb` 24"):
        check_gpu_memory(24.0)
    take_gpu_share(0)  # it is not used
    check_gpu_memory(24.0)


def test_a_process_that_is_to_use_no_gpu_uses_none(monkeypatch):
    Card(monkeypatch)
    assert pick_device() == torch.device("cuda")
    take_gpu_share(0)
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize(("has_gpu", "kind"), [(False, "cpu"), (True, "cuda")])
def test_a_gpu_is_picked_where_there_is_one(monkeypatch, has_gpu, kind):
    monkeypatch.setattr(device, "_gpu_share", 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert pick_device() == torch.device(kind)


def test_a_cpu_computes_in_float32():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_gpu_computes_in_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    context = autocast(torch.device("cuda"))
    assert isinstance(context, torch.autocast)
    assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)


@pytest.mark.parametrize(
    ("capability", "best"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_a_gpu_computes_in_the_best_that_it_has_in_hardware(monkeypatch, capability, best):
    Card(monkeypatch, capability)
    gpu = torch.device("cuda")
    use_precision("auto")
    assert precision_of(gpu) == best and precision_of(torch.device("cpu")) == "fp32"
    suffix = "" if best == "bf16" else f", {best}"
    assert device_name(gpu, 4) == f"NVIDIA T4{suffix}"
    slower = ("bf16", "fp16", "fp32")[("bf16", "fp16", "fp32").index(best) :]
    for asked in ("bf16", "fp16", "fp32"):
        if asked in slower:
            use_precision(asked)
            assert precision_of(gpu) == asked
        else:
            with pytest.raises(UserError, match=f"does not compute `precision` {asked} in hard"):
                use_precision(asked)


@pytest.mark.parametrize(
    ("architecture", "best"),
    [
        ("gfx90a:sramecc+:xnack-", "bf16"),
        ("gfx942", "bf16"),
        ("gfx1100", "bf16"),
        ("gfx906:sramecc+", "fp16"),
        ("gfx1030", "fp16"),
    ],
)
def test_amds_gpus_compute_in_what_their_architecture_has(monkeypatch, architecture, best):
    card = Card(monkeypatch, (10, 3))  # ROCm counts otherwise
    monkeypatch.setattr(torch.version, "hip", "6.3")
    monkeypatch.setattr(card, "gcnArchName", architecture, raising=False)
    assert precision_of(torch.device("cuda")) == best
    if best == "fp16":
        with pytest.raises(UserError, match="give fp16"):
            use_precision("bf16")


def test_apples_gpus_compute_in_float32_and_sums_in_float64_are_made_beside_them(monkeypatch):
    monkeypatch.setattr(device, "_precision", "bf16")  # which is of CUDA's
    mps = torch.device("mps")
    assert precision_of(mps) == "fp32" and not isinstance(autocast(mps), torch.autocast)
    assert device.sums_dtype(mps) == torch.float32
    assert device.float64_device(mps) == torch.device("cpu")
    assert device_name(mps, 4).endswith(", its GPU")


def test_a_device_that_is_not_there_is_refused_by_its_name(monkeypatch):
    assert named_device("cpu") == torch.device("cpu")
    for kind in ("cuda", "mps"):
        module = getattr(torch, kind)
        monkeypatch.setattr(module, "is_available", lambda: False, raising=False)
        with pytest.raises(UserError, match=f"no device of the kind {kind} here"):
            named_device(kind)
        monkeypatch.setattr(module, "is_available", lambda: True, raising=False)
        assert named_device(kind) == torch.device(kind)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_other_devices_sum_in_float64_themselves(kind):
    there = torch.device(kind)
    assert device.sums_dtype(there) == torch.float64 and device.float64_device(there) == there
    wide = device.in_float64(torch.ones(2))
    assert wide.dtype == torch.float64 and wide.tolist() == [1.0, 1.0]


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(("asked", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_what_runs_under_autocast_is_in_the_precision_that_was_asked_for(monkeypatch, asked, dtype):
    monkeypatch.setattr(device, "_precision", asked)
    context = autocast(torch.device("cuda"))
    assert isinstance(context, torch.autocast) and context.fast_dtype == dtype
    monkeypatch.setattr(device, "_precision", "fp32")
    assert not isinstance(autocast(torch.device("cuda")), torch.autocast)
