"""Costs of serving, against the published multiply-adds of the family."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sweeps.planning.published import PUBLISHED
from trainables.errors import UserError
from trainables.models import backbone, variants
from trainables.models.mirrored import MirrorAveraged
from trainables.profiling.cost import cost
from trainables.profiling.inference_memory import peak_bytes, peak_mb

# Millions of activations, as timm gives them with its measurements of these nets.
ACTIVATIONS = {("b0", 224): 6.75, ("b1", 240): 10.88, ("b4", 380): 49.49, ("b7", 600): 289.9}

# GMACs of an image at the native and at the published test resolutions, as printed.
GMACS = {
    "b0": {224: "0.386", 320: "0.785"},
    "b1": {240: "0.687", 384: "1.669"},
    "b2": {260: "0.994", 420: "2.479"},
    "b3": {300: "1.827", 472: "4.365"},
    "b4": {380: "4.394", 472: "6.827", 512: "7.84"},
    "b5": {456: "10.27", 576: "15.54"},
    "b6": {528: "19.07", 576: "22.16", 680: "32.00"},
    "b7": {600: "37.75", 632: "41.84"},
    "b8": {672: "62.6", 800: "88.7"},
    "l2": {475: "170.9", 600: "273.1"},
}


@pytest.mark.parametrize("name", GMACS)
def test_gmacs_are_the_published_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        net = backbone.build(variants.get(name), 1000).eval()
    monkeypatch.setattr(backbone, "build", lambda *_: net)  # once for all resolutions
    for res, printed in GMACS[name].items():
        counted = cost(name, res, 1000)
        decimals = len(printed.partition(".")[2])
        assert f"{counted.gmacs:.{decimals}f}" == printed
        assert round(counted.params_m * 1e6) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("name", "res"), ACTIVATIONS)
def test_activations_are_those_of_timm(name: str, res: int) -> None:
    assert cost(name, res, 1000).activations_m == pytest.approx(ACTIVATIONS[name, res], rel=0.002)


def test_the_published_results_are_at_these_resolutions() -> None:
    resolutions: dict[str, set[int]] = {name: set() for name in GMACS}
    for row in PUBLISHED.values():
        resolutions[row.variant.removesuffix("_ap")] |= {row.train_res, row.test_res}
    assert resolutions == {name: set(at) for name, at in GMACS.items()}


def test_a_class_costs_its_row_of_the_classifier() -> None:
    few, many = cost("b0", 64, 10), cost("b0", 64, 110)
    assert round(1e6 * (many.params_m - few.params_m)) == 100 * (1280 + 1)
    assert 1e9 * (many.gmacs - few.gmacs) == pytest.approx(100 * 1280)
    assert many.memory_mb == peak_mb("b0", 64, 110) > few.memory_mb


def test_an_image_that_passes_with_its_mirror_image_costs_two() -> None:
    one = cost("lite0", 64, 10)
    two = one.of_passes(2)
    with torch.device("meta"):
        served = MirrorAveraged(backbone.build(variants.get("lite0"), 10)).eval()
    image = torch.empty(1, 3, 64, 64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        served(image)
    assert two.gmacs == pytest.approx(counter.get_total_flops() / 2e9)
    assert two.memory_mb == pytest.approx(peak_bytes(served, image) / 1e6, rel=0.02)
    assert two.activations_m == 2 * one.activations_m
    assert two.params_m == one.params_m and one.of_passes(1) == one


def test_a_net_is_counted_as_timm_publishes_it() -> None:
    """ResNet-50: 25.56 M parameters and 4.1 GMACs at 224 px."""
    found = cost("timm:resnet50", 224, 1000)
    assert found.params_m == pytest.approx(25.56, abs=0.01)
    assert found.gmacs == pytest.approx(4.1, abs=0.05)
    assert found.layers == 54 and found.memory_mb > 4 * found.params_m


def test_fewer_pixels_than_a_net_runs_with_are_refused() -> None:
    with pytest.raises(UserError, match=r"timm:inception_v3 does not run at 64 px .*larger"):
        cost("timm:inception_v3", 64, 10)
