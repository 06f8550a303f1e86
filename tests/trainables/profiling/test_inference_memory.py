"""The peak of a forward: by hand for small nets, and beside PyTorch's own allocations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from trainables.models import backbone, variants
from trainables.profiling.inference_memory import peak_bytes, peak_mb

FLOAT = 4  # bytes


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, device="meta")


def peak(*layers: nn.Module, side: int = 10) -> int:
    """In numbers, of an image of three channels."""
    found = peak_bytes(nn.Sequential(*layers), torch.empty(1, 3, side, side, device="meta"))
    assert found % FLOAT == 0
    return found // FLOAT


# --- by hand ----------------------------------------------------------------------------------


def test_two_convolutions_in_closed_form() -> None:
    weights = 9 * (3 * 8 + 8 * 4)
    assert peak(conv(3, 8), conv(8, 4)) == weights + 100 * (3 + 8 + 4)
    assert peak(conv(3, 8), conv(8, 4), side=20) == weights + 400 * (3 + 8 + 4)


def test_what_nothing_needs_any_more_is_freed() -> None:
    weights = 9 * (3 * 8 + 8 * 4 + 4 * 2)
    assert peak(conv(3, 8), conv(8, 4), conv(4, 2)) == weights + 100 * (3 + 8 + 4)


def test_a_skip_connection_is_held() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(conv(8, 4), conv(4, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x) + x
            return out

    # The image, the skip, what the second convolution leaves, and their sum.
    assert peak(conv(3, 8), Skip()) == 9 * (3 * 8 + 2 * 8 * 4) + 100 * (3 + 8 + 8 + 8)


def test_views_and_results_in_place_take_nothing() -> None:
    alone = peak(conv(3, 8))
    assert peak(conv(3, 8), nn.ReLU(inplace=True)) == alone
    assert peak(conv(3, 8), nn.Flatten()) == alone
    assert peak(conv(3, 8), nn.ReLU()) == alone + 100 * 8


def test_tied_weights_are_counted_once_and_buffers_too() -> None:
    first, same = conv(3, 3), conv(3, 3)
    apart = peak(first, same)
    assert peak(first, first) == apart - 9 * 3 * 3
    same.weight = first.weight
    assert peak(first, same) == apart - 9 * 3 * 3
    first.register_buffer("table", torch.empty(1000, device="meta"))
    assert peak(first, same) == apart - 9 * 3 * 3 + 1000


# --- the real nets ----------------------------------------------------------------------------


def allocated_bytes(variant: str, res: int, trace: Path) -> int:
    """Peak of what PyTorch's allocator really hands out in a forward, and the image before it."""
    cpu = torch.device("cpu")
    model = backbone.to_device(backbone.build(variants.get(variant), 10), cpu).eval()
    x = torch.zeros(1, 3, res, res).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model(x)  # what is set up once
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            model(x)
    profiled.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    now = most = x.nbytes
    for event in sorted(events, key=lambda e: float(e["ts"])):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="other kernels")
@pytest.mark.parametrize(("variant", "res"), [("lite0", 96), ("b0", 128), ("b1", 75)])
def test_pytorchs_allocator_hands_out_as_much(variant: str, res: int, tmp_path: Path) -> None:
    """A little more, for oneDNN copies a depthwise kernel into its own layout: kilobytes."""
    model = backbone.build(variants.get(variant), 10)
    weights = sum(t.nbytes for t in model.state_dict().values())
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    counted = 1e6 * peak_mb(variant, res, 10) - weights
    real = allocated_bytes(variant, res, tmp_path / "trace.json")
    assert 0 <= round(real - counted) <= max(m.weight.nbytes for m in depthwise)
    assert real == pytest.approx(counted, rel=0.01)


def test_a_class_takes_its_row_of_the_classifier() -> None:
    more = peak_mb("b0", 64, 110) - peak_mb("b0", 64, 10)
    assert more == pytest.approx(100 * (1280 + 1) * FLOAT / 1e6)


@pytest.mark.parametrize("variant", ["b0", "lite4", "l2"])
def test_maps_grow_with_the_area_and_weights_do_not(variant: str) -> None:
    with torch.device("meta"):
        model = backbone.build(variants.get(variant), 10)
    weights = sum(t.nbytes for t in model.state_dict().values()) / 1e6
    small, large = (peak_mb(variant, res, 10) - weights for res in (256, 512))
    assert small > 0 and large == pytest.approx(4 * small, rel=0.02)
