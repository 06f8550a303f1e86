"""Statistics from moments of the input, features corrected for them: against the whole thing."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from trainables.fixres.features import NormStatistics, set_norm
from trainables.fixres.streaming.first_order import FeatureSlopes, corrected, feature_slopes
from trainables.fixres.streaming.input_moments import InputMoments
from trainables.models import backbone

NETS = {"silu": "efficientnet_b0", "relu6": "tf_efficientnet_lite0"}
CHANNELS, SIDE = 320, 3


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(NETS[request.param], num_classes=5)
    torch.nn.init.uniform_(model.bn2.weight, 0.5, 1.5)
    torch.nn.init.normal_(model.bn2.bias)
    return model.eval()


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    """Channels that go together, of different means and scales; images that differ."""
    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(CHANNELS, CHANNELS, generator=rng) / CHANNELS**0.5
    noise = torch.randn(400, CHANNELS, SIDE, SIDE, generator=rng)
    images = torch.randn(400, CHANNELS, 1, 1, generator=rng)
    mixed = torch.einsum("dc,nchw->ndhw", mixing, noise + images)
    scales = torch.logspace(-2, 2, CHANNELS)[:, None, None]
    return mixed * scales + 10 * scales


def exact(net: Any, maps: torch.Tensor) -> NormStatistics:
    with torch.no_grad():
        z = net.conv_head(maps).double().transpose(0, 1).flatten(1)
    return NormStatistics(z.mean(1), z.var(1, correction=1))


def summed(maps: torch.Tensor, batch_size: int) -> InputMoments:
    moments = InputMoments.about(maps[:batch_size])
    for batch in torch.split(maps, batch_size):
        moments.add(batch)
    return moments


@pytest.mark.parametrize("batch_size", [1, 37, 400])
def test_moments_of_the_input_give_the_norms_statistics(
    net: Any, maps: torch.Tensor, batch_size: int
) -> None:
    found, wanted = summed(maps, batch_size).statistics(net), exact(net, maps)
    assert found.mean.dtype == found.var.dtype == torch.float64
    deviation = wanted.var.sqrt()
    assert ((found.mean - wanted.mean).abs() / deviation).max() < 1e-5
    torch.testing.assert_close(found.var, wanted.var, rtol=1e-5, atol=0)


def test_moments_go_on_from_what_was_stored_of_them(net: Any, maps: torch.Tensor) -> None:
    whole, first = summed(maps, 50), summed(maps[:200], 50)
    taken_up = InputMoments.from_state(
        {name: t.clone() for name, t in first.state().items()}, torch.device("cpu")
    )
    for batch in torch.split(maps[200:], 50):
        taken_up.add(batch)
    assert all(torch.equal(t, taken_up.state()[name]) for name, t in whole.state().items())


def test_a_bias_of_the_head_moves_the_mean_alone(net: Any, maps: torch.Tensor) -> None:
    plain = summed(maps, 100).statistics(net)
    bias = torch.randn(net.conv_head.out_channels)
    try:
        net.conv_head.bias = torch.nn.Parameter(bias)
        found = summed(maps, 100).statistics(net)
    finally:
        net.conv_head.bias = None
    torch.testing.assert_close(found.mean, plain.mean + bias.double())
    assert torch.equal(found.var, plain.var)


def slopes_and_truth(net: Any, maps: torch.Tensor, sample: int) -> Any:
    """Features under the statistics of the first images and of all, and what corrects them."""
    before, now = exact(net, maps[:sample]), exact(net, maps)
    with torch.no_grad():
        z = backbone.pre_norm(net, maps)
        set_norm(net, now)
        wanted = backbone.pooled(net, z)
        set_norm(net, before)
    return feature_slopes(net, z), before, now, wanted


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_features_with_slopes_are_the_features(net: Any, maps: torch.Tensor) -> None:
    found, *_ = slopes_and_truth(net, maps, 100)
    with torch.no_grad():
        torch.testing.assert_close(
            found.features, backbone.pooled(net, backbone.pre_norm(net, maps))
        )
    assert not any(t.requires_grad for t in vars(found).values())


def test_slopes_are_those_of_small_changes_of_the_statistics(net: Any, maps: torch.Tensor) -> None:
    """In float64, where differences of that size are known to many digits."""
    double, x = net.double(), maps[:20].double()
    try:
        start = exact(double, x)
        with torch.no_grad():
            z = double.conv_head(x)
        set_norm(double, start)
        found, step = feature_slopes(double, z), 1e-6
        for mean, scale in ((step, 0.0), (0.0, step)):
            moved = NormStatistics(
                start.mean + mean * start.var.sqrt(), (start.var + net.bn2.eps) * (1 + scale)
            )
            moved = NormStatistics(moved.mean, moved.var - net.bn2.eps)
            set_norm(double, moved)
            with torch.no_grad():
                change = backbone.pooled(double, z) - found.features
            said = corrected(found, double, start, moved).double() - found.features
            # corrected() gives float32; a change of 1e-6 is judged by that of all features.
            assert (said - change).norm() < 0.2 * change.norm()
    finally:
        net.float()


@pytest.mark.parametrize("sample", [50, 100])
def test_corrected_features_are_many_times_nearer_to_those_of_exact_statistics(
    net: Any, maps: torch.Tensor, sample: int
) -> None:
    found, before, now, wanted = slopes_and_truth(net, maps, sample)
    plain, better = found.features, corrected(found, net, before, now)
    assert relative(better, wanted) < relative(plain, wanted) / 5


def test_what_a_correction_leaves_is_quadratic_in_the_difference(
    net: Any, maps: torch.Tensor
) -> None:
    """Half as far from the exact statistics, a quarter is left: of ReLU6, whose kinks are few."""
    with torch.no_grad():
        z = backbone.pre_norm(net, maps)
    now, left = exact(net, maps), []
    direction = torch.randn(len(now.mean), generator=torch.Generator().manual_seed(2)).double()
    set_norm(net, now)
    with torch.no_grad():
        wanted = backbone.pooled(net, z)
    for size in (0.2, 0.1):
        mean = now.mean + size * direction * now.var.sqrt()
        before = NormStatistics(mean, now.var * (1 + size))
        set_norm(net, before)
        left.append(relative(corrected(feature_slopes(net, z), net, before, now), wanted))
    assert 3 < left[0] / left[1] < 5


def test_half_precision_of_the_parts_costs_no_more_than_its_rounding(
    net: Any, maps: torch.Tensor
) -> None:
    found, before, now, _ = slopes_and_truth(net, maps, 100)
    half = FeatureSlopes(*(t.half() for t in vars(found).values()))
    full, rounded = (corrected(f, net, before, now) for f in (found, half))
    assert relative(rounded, full) < 2**-11
