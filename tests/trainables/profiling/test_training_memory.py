"""What a step takes of a GPU: against PyTorch's own allocations, and what ran on a real card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory import CARD_GB, LADDER, Rung
from trainables.fixres.streaming.first_order import feature_slopes
from trainables.models import backbone, variants
from trainables.profiling.inference_memory import peak_bytes, peak_mb
from trainables.profiling.training_memory import (
    FLOAT,
    MOMENTS,
    MapPrecision,
    cell_bytes,
    forward_bytes,
    needed_gb,
    saved_bytes,
    scoring_bytes,
    step_bytes,
)


def step(
    variant: str = "b0",
    res: int = 64,
    batch: int = 8,
    *,
    precision: MapPrecision = "float32",
    optimizer: str = "adamw",
    ema: bool = False,
    classes: int = 10,
    workers: int = 1,
) -> int:
    return step_bytes(
        variant, res, batch=batch, classes=classes, precision=precision, optimizer=optimizer,
        ema=ema, workers=workers,
    )  # fmt: skip


def parameters(variant: str) -> int:
    with torch.device("meta"):
        model = backbone.build(variants.get(variant), 10)
    return sum(p.numel() for p in model.parameters())


# --- by hand ----------------------------------------------------------------------------------


def test_a_convolution_saves_what_it_sees_and_a_linear_layer_too() -> None:
    conv = torch.nn.Conv2d(3, 8, 1, bias=False)
    net = torch.nn.Sequential(conv, torch.nn.Sigmoid(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    x = torch.zeros(2, 3, 4, 4)
    net(x)
    maps, logits = 2 * 8 * 4 * 4, 2 * 5
    # The image is not counted, sigmoid saves its result, of which the linear layer sees a view;
    # the loss saves log-probabilities, labels (8 bytes each) and its total weight.
    assert saved_bytes(net, x) == FLOAT * (maps + logits + 1) + 2 * 8


# --- against PyTorch's allocator --------------------------------------------------------------


def allocations(work: Callable[[], object], trace: Path) -> list[float]:
    """Bytes more than before ``work``, after each allocation of it and each release."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = work()
    profiled.export_chrome_trace(str(trace))
    del kept
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    changes = [e["args"]["Bytes"] for e in sorted(events, key=lambda e: float(e["ts"]))]
    return torch.tensor(changes, dtype=torch.float64).cumsum(0).tolist()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="other kernels")
@pytest.mark.parametrize(("variant", "res", "batch"), [("b0", 96, 16), ("lite0", 75, 24)])
def test_a_real_step_in_float32(variant: str, res: int, batch: int, tmp_path: Path) -> None:
    """After the forward just what was counted is there. The peak of the whole step is a little
    later: a gradient of a map or two, within the share that is put on top."""
    model = backbone.to_device(backbone.build(variants.get(variant), 10), torch.device("cpu"))
    x = torch.zeros(batch, 3, res, res).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64)

    def forward() -> torch.Tensor:
        return F.cross_entropy(model.train()(x), labels)

    def whole() -> None:
        forward().backward()

    whole()  # what is set up once
    model.zero_grad(set_to_none=True)
    weights = FLOAT * parameters(variant)
    saved = step(variant, res, batch) - x.nbytes - weights * (2 + MOMENTS["adamw"])
    live = allocations(forward, tmp_path / "forward.json")[-1]
    peak = max(allocations(whole, tmp_path / "step.json"))
    assert live == pytest.approx(saved, rel=1e-4)
    assert saved < peak < 1.1 * (saved + weights)


# --- against a card ---------------------------------------------------------------------------


QUICK = ("b0", "b2", "b4", "lite0", "lite2")
RUNGS = [
    pytest.param(rung, id=str(rung), marks=[] if rung.variant in QUICK else pytest.mark.slow)
    for rung in LADDER
]


@pytest.mark.parametrize("rung", RUNGS)
def test_what_ran_on_a_card_is_told_from_what_did_not(rung: Rung) -> None:
    assert rung.needed_gb(rung.ran) < CARD_GB
    if rung.failed is not None:
        assert rung.needed_gb(rung.failed) > CARD_GB


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "float32"])
@pytest.mark.parametrize(("variant", "res"), [("b0", 65), ("lite2", 96)])
def test_a_step_is_affine_in_the_batch(variant: str, res: int, precision: MapPrecision) -> None:
    two, three, many = (step(variant, res, n, precision=precision) for n in (2, 3, 50))
    assert many == pytest.approx(two + 48 * (three - two), rel=1e-6)
    fixed = two - 2 * (three - two)
    weights = parameters(variant) * (16 + (2 if precision == "bf16" else 0))
    assert fixed == pytest.approx(weights, rel=0.02)


def test_maps_grow_with_the_area() -> None:
    small, large = (step(res=r, batch=8) - step(res=r, batch=4) for r in (128, 256))
    assert large == pytest.approx(4 * small, rel=0.01)


def test_a_size_that_is_no_multiple_of_the_stride_takes_as_much_as_its_maps() -> None:
    """129 px have maps of 65, 33, 17, 9 and 5: larger than the area alone would say."""
    at = {res: step(res=res, batch=8) - step(res=res, batch=4) for res in (128, 129, 160)}
    assert at[128] * (129 / 128) ** 2 * 1.02 < at[129] < at[160]


@pytest.mark.parametrize("variant", ["b0", "b3", "lite0"])
def test_bf16_halves_the_maps(variant: str) -> None:
    half, whole = (
        step(variant, 96, 16, precision=p) - step(variant, 96, 8, precision=p)
        for p in ("bf16", "float32")
    )
    x = FLOAT * 8 * 3 * 96 * 96  # images are float32 either way
    assert half - x == pytest.approx((whole - x) / 2, rel=0.03)


def test_what_the_optimiser_and_the_average_keep() -> None:
    weights = FLOAT * parameters("b0")
    assert step(optimizer="adamw") - step(optimizer="sgd") == weights
    assert step(ema=True) - step() == weights
    assert step(workers=2) - step() == weights and step(workers=3) == step(workers=2)


@pytest.mark.parametrize(
    ("kept", "copies"),
    [({}, 2), ({"optimizer": "sgd"}, 1), ({"ema": True}, 3), ({"ema": True, "workers": 2}, 4)],
)
def test_scoring_amid_a_training_takes_what_it_goes_on_with(
    kept: dict[str, Any], copies: int
) -> None:
    how: dict[str, Any] = {"batch": 8, "classes": 10, "precision": "float32"}
    forward = forward_bytes("b0", 96, **how)
    scoring = scoring_bytes("b0", 96, **how, **{"optimizer": "adamw", "ema": False, **kept})
    assert scoring - forward == copies * FLOAT * parameters("b0")


def test_larger_nets_need_more() -> None:
    family = [step(f"b{i}", 64, 4) for i in (0, 1, 2, 4, 5)]
    assert family == sorted(family)
    assert step("lite0", 64) < step("b0", 64)


# --- cells ------------------------------------------------------------------------------------


def test_a_forward_of_one_image_is_that_of_serving() -> None:
    counted = forward_bytes("b0", 96, batch=1, classes=10, precision="float32")
    assert counted == pytest.approx(1e6 * peak_mb("b0", 96, 10))


@pytest.mark.parametrize("variant", ["b0", "b4"])
def test_a_forward_takes_less_than_a_step_up_to_twice_the_resolution(variant: str) -> None:
    forward = forward_bytes(variant, 256, batch=32, classes=10, precision="bf16")
    assert forward < step(variant, 128, 32, precision="bf16")
    halves = [forward_bytes(variant, 256, batch=n, classes=10, precision="bf16") for n in (32, 64)]
    assert halves[1] < 2 * halves[0]


def cell(features: int = 0, settings: int = 0, batch: int = 32) -> int:
    return cell_bytes(
        "b0", 128, batch=batch, classes=10, precision="bf16", features=features, settings=settings
    )


def test_a_cell_takes_its_pass_or_its_features() -> None:
    forward = forward_bytes("b0", 128, batch=32, classes=10, precision="bf16")
    assert cell() == cell(features=1000, settings=10) == forward
    million = cell(features=1_000_000) - cell(features=500_000)
    assert million == 500_000 * 1280 * FLOAT
    assert cell(features=10**6, batch=64) == cell(features=10**6)


def test_features_with_slopes_take_as_much_as_is_alive_while_they_are_made() -> None:
    """Counted on the meta device from the operators that run."""
    with torch.device("meta"):
        model = backbone.build(variants.get("b0"), 10).eval().requires_grad_(False)
        z = torch.empty(64, 1280, 4, 4)
    held = sum(t.numel() for t in (*model.parameters(), *model.buffers())) * FLOAT

    class Slopes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return feature_slopes(self.net, z).slope

    counted = peak_bytes(Slopes(), z) - held
    slopes, plain = (
        cell_bytes(
            "b0", 128, batch=64, classes=10, precision="float32", features=0, settings=0,
            has_slopes=has,
        )
        for has in (True, False)
    )  # fmt: skip
    assert slopes >= plain
    assert counted <= 7 * z.numel() * FLOAT


def test_what_is_not_counted_is_put_on_top() -> None:
    assert needed_gb(0) > 0.5  # a context alone
    assert needed_gb(20e9) - needed_gb(10e9) == pytest.approx(11.0)
