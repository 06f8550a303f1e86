import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.stats import genextreme, linregress

from trainables.fixres import frechet
from trainables.fixres.frechet import (
    PROBABILITIES,
    Law,
    ScalarMap,
    fit_laws,
    fold,
    map_between,
    quantiles,
)

LAWS = [Law(0.3, 0.1, 0.2), Law(0.02, -0.05, 0.04), Law(1.0, 2.0, 3.0)]


def scipys(law):
    return genextreme(-law.shape, loc=law.location, scale=law.scale)


def silu_pooled(side, images=200, width=64):
    """(N, F) float32: SiLU of smooth random maps of another channel mix each, mean-pooled."""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.randn(images, width, 3, 3, generator=generator)
    maps = F.interpolate(coarse, size=(side, side), mode="bilinear")
    maps = maps + torch.randn(maps.shape, generator=generator)
    shift = torch.linspace(-4, 1, width)[None, :, None, None]  # most channels are mostly off
    return F.silu(1.5 * maps + shift).mean(dim=(2, 3)).numpy()


def mapped(scalar_map, x):
    return scalar_map.gain * x + scalar_map.offset


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_law_is_scipys(law):
    q = np.linspace(0, 0.999, 500)
    np.testing.assert_allclose(law.quantile(q), scipys(law).ppf(q), rtol=1e-9, atol=1e-9)
    x = np.linspace(law.location - 60 * law.scale, law.location + 100 * law.scale, 1000)
    np.testing.assert_allclose(law.cdf(x), scipys(law).cdf(x), rtol=1e-9, atol=1e-12)
    assert law.cdf(x)[0] == 0


def test_a_law_of_scale_0_is_a_step():
    law = Law(0.3, 2.0, 0.0)
    np.testing.assert_array_equal(law.cdf(np.array([1.9, 2.0, 2.1])), [0, 1, 1])
    np.testing.assert_array_equal(law.quantile(np.array([0.1, 0.9])), [2, 2])


@pytest.mark.parametrize("shape", [0.1, 0.3, 0.7])
def test_the_laws_of_samples_are_found(shape):
    wanted = Law(shape, 0.3, 0.2), Law(shape, -0.1, 0.05)
    samples = [scipys(law).rvs((1000, 300), random_state=i) for i, law in enumerate(wanted)]
    found = fit_laws(*map(quantiles, samples))
    assert found[0].shape == found[1].shape
    for law, truth in zip(found, wanted, strict=True):
        assert law.shape == pytest.approx(shape, abs=0.015)
        assert law.location == pytest.approx(truth.location, abs=0.01 * truth.scale)
        assert law.scale == pytest.approx(truth.scale, rel=0.015)


def unexplained(q, shape):
    line = linregress(genextreme(-shape).ppf(PROBABILITIES), q)
    return 1 - line.rvalue**2, line


@pytest.mark.parametrize("size", [0.02, 50])
def test_the_fit_is_least_squares_at_the_shape_that_suits_both(size):
    """Whatever the units of one of them."""
    old, new = (
        scipys(Law(0.5, 0, 1)).ppf(PROBABILITIES),
        size * Law(0.2, 1, 2).quantile(PROBABILITIES),
    )
    laws = fit_laws(old, new)
    best = minimize_scalar(
        lambda shape: unexplained(old, shape)[0] + unexplained(new, shape)[0],
        bounds=(0.2, 0.5),
        method="bounded",
    )
    assert 0.25 < best.x < 0.45
    for law, q in zip(laws, (old, new), strict=True):
        assert law.shape == pytest.approx(best.x, abs=0.006)
        line = unexplained(q, law.shape)[1]
        assert law.scale == pytest.approx(line.slope)
        assert law.location == pytest.approx(line.intercept)


def test_the_map_is_the_new_cdf_and_then_the_old_quantile():
    features = silu_pooled(10)
    old, new = fit_laws(quantiles(silu_pooled(5)), quantiles(features))
    inside = features[
        (features > scipys(new).support()[0]) & (features < np.quantile(features, 0.99))
    ]
    assert (inside < 0).sum() > 100
    wanted = scipys(old).ppf(scipys(new).cdf(inside))
    # Far down the tail the cdf is too small for a float to hold.
    held = scipys(new).cdf(inside) > 1e-200
    assert held.mean() > 0.9 and (inside[held] < 0).any()
    found = mapped(map_between(old, new), inside.astype(np.float64))
    np.testing.assert_allclose(found[held], wanted[held], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("gain", "offset"), [(1.7, 0.2), (0.4, -0.3), (1.0, 5.0)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_stretched_and_moved_copy_is_mapped_back(gain, offset, dtype):
    x = silu_pooled(7).astype(np.float64)
    changed = ((x - offset) / gain).astype(dtype)
    found = map_between(*fit_laws(quantiles(x), quantiles(changed)))
    accuracy = 1e-9 if dtype == np.float64 else 1e-5
    assert found.gain == pytest.approx(gain, rel=accuracy)
    np.testing.assert_allclose(mapped(found, changed), x, rtol=0, atol=10 * accuracy)


@pytest.mark.parametrize("side", [3, 7])
def test_equal_statistics_need_no_map(side):
    q = quantiles(silu_pooled(side))
    assert map_between(*fit_laws(q, q.copy())) == ScalarMap(1.0, 0.0)


def test_the_map_brings_new_quantiles_nearer_to_the_old_ones():
    old, new = quantiles(silu_pooled(3)), quantiles(silu_pooled(12))
    found = map_between(*fit_laws(old, new))
    assert found.gain > 1.05  # pooling over more positions spreads less
    assert np.square(mapped(found, new) - old).sum() < 0.3 * np.square(new - old).sum()


def test_quantiles_are_of_all_activations_negative_ones_included():
    features = silu_pooled(7)
    found = quantiles(features)
    wanted = [np.sort(features, axis=None)[int(p * (features.size - 1))] for p in PROBABILITIES]
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert found.dtype == np.float64 and len(found) == len(PROBABILITIES)
    assert -0.278 < found[0] < 0 < found[-1]
    assert (PROBABILITIES[0], PROBABILITIES[-1]) == (0.05, 0.95)


def test_features_are_left_as_they_were():
    features = silu_pooled(7).astype(np.float64)
    before = features.copy()
    quantiles(features)
    np.testing.assert_array_equal(features, before)


def test_large_arrays_are_sampled_by_the_same_images(monkeypatch):
    features = silu_pooled(7, images=1000)
    exact = quantiles(features)
    monkeypatch.setattr(frechet, "MAX_ACTIVATIONS", 500 * features.shape[1])
    sampled = quantiles(features)
    assert not np.array_equal(sampled, exact)
    np.testing.assert_allclose(sampled, exact, atol=0.02 * np.ptp(exact))
    np.testing.assert_allclose(quantiles(2 * features + 1), 2 * sampled + 1, rtol=1e-5)


FEW = np.linspace(-0.1, 1.0, len(PROBABILITIES)) ** 3
FLAT = np.full(len(PROBABILITIES), 0.7)  # among others, Lite activations that are nearly all 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FLAT, FLAT),
        (FLAT, FEW),
        (FEW, FLAT),
        (FEW, FLAT * 0),
        (FEW * 0, FLAT * 0),
        (FEW, FLAT + np.arange(91) * 1e-16),
        (FEW, FEW * 1e-200),
        (FEW, np.full_like(FEW, np.nan)),
        (np.where(FEW > 0.5, np.inf, FEW), FEW),
        (FEW, np.where(FEW < -1e-4, -np.inf, FEW)),
    ],
)
def test_statistics_without_a_spread_give_the_identity(old, new):
    laws = fit_laws(old, new)
    assert all(math.isfinite(v) for law in laws for v in (law.shape, law.location, law.scale))
    assert min(law.scale for law in laws) == 0
    assert map_between(*laws) == ScalarMap(1.0, 0.0)


def test_lite_activations_with_mass_at_zero_have_a_map():
    pooled = np.maximum(silu_pooled(7), 0)
    found = map_between(*fit_laws(quantiles(pooled), quantiles(0.5 * pooled)))
    assert found.gain == pytest.approx(2)
    assert found.offset == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("scalar_map", [ScalarMap(1.3, -0.2), ScalarMap(0.5, 3.0)])
def test_a_folded_classifier_maps_its_input(scalar_map):
    features = torch.tensor(silu_pooled(7))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, features.shape[1], generator=generator)
    bias = torch.randn(10, generator=generator)
    before = weight.clone(), bias.clone()
    folded = fold(scalar_map, weight, bias)
    assert all(t.dtype == torch.float32 for t in folded)
    torch.testing.assert_close(
        F.linear(features, *folded),
        F.linear(mapped(scalar_map, features), weight, bias),
        rtol=1e-4,
        atol=1e-4,
    )
    assert torch.equal(weight, before[0]) and torch.equal(bias, before[1])


def test_the_identity_folds_to_the_same_classifier():
    weight, bias = torch.randn(3, 5), torch.randn(3)
    folded = fold(frechet.IDENTITY, weight, bias)
    assert torch.equal(folded[0], weight) and torch.equal(folded[1], bias)
