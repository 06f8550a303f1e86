"""Temperature and calibration error: against PyTorch's loss, other solvers, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from trainables.evaluation.calibration import (
    IMAGES_PER_BIN,
    MAX_BINS,
    fit_temperature,
    mean_nll,
    reliability,
)


def a_sample(n: int = 400, classes: int = 5, sharpness: float = 3.0, seed: int = 0):
    """Logits, and labels drawn from softmax(logits / sharpness): that is how sure to be."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (n, classes)).astype(np.float32)
    gumbel = rng.gumbel(size=logits.shape)
    return logits, (logits / sharpness + gumbel).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_nll_is_the_cross_entropy_of_pytorch(temperature: float) -> None:
    logits, labels = a_sample()
    loss = cross_entropy(torch.tensor(logits).double() / temperature, torch.tensor(labels))
    assert mean_nll(logits, labels, temperature) == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_that_of_a_search_over_the_loss(seed: int) -> None:
    logits, labels = a_sample(seed=seed)
    exact, target = torch.tensor(logits).double(), torch.tensor(labels)
    found = minimize_scalar(
        lambda log_t: cross_entropy(exact / np.exp(log_t), target).item(),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(found.x), rel=1e-6)


def test_the_temperature_that_labels_were_drawn_with_is_found() -> None:
    logits, labels = a_sample(n=40_000, sharpness=3.0)
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=0.03)


@settings(deadline=None)
@given(st.floats(0.3, 4.0))
def test_scaled_logits_have_the_scaled_temperature(scale: float) -> None:
    logits, labels = a_sample()
    scaled = (logits.astype(np.float64) * scale).astype(np.float32)
    temperature = fit_temperature(logits, labels)
    assert temperature is not None
    assert fit_temperature(scaled, labels) == pytest.approx(scale * temperature, rel=1e-5)


def test_where_no_image_is_wrong_or_nothing_is_known_there_is_no_temperature() -> None:
    logits, _ = a_sample()
    assert fit_temperature(logits, logits.argmax(axis=1)) is None
    assert fit_temperature(logits, logits.argmin(axis=1)) is None  # worse than saying nothing
    assert fit_temperature(np.zeros_like(logits), logits.argmax(axis=1)) is None


def test_classes_that_are_ruled_out_count_for_nothing() -> None:
    logits, labels = a_sample()
    ruled_out = np.full((len(labels), 1), -np.inf, np.float32)
    more = np.concatenate([logits, ruled_out], axis=1)
    assert fit_temperature(more, labels) == pytest.approx(fit_temperature(logits, labels))
    assert reliability(more, labels, 2.0) == reliability(logits, labels, 2.0)


# --- reliability ---------------------------------------------------------------------------------


def two_classes(confidence: np.ndarray) -> np.ndarray:
    """Logits whose first class has this probability."""
    odds = np.log(confidence / (1 - confidence))
    return np.stack([odds, np.zeros_like(odds)], axis=1).astype(np.float32)


def test_the_error_of_two_groups_is_by_hand() -> None:
    # 80 images at 90 %, of which 60 right; 20 at 60 %, of which 15: bins of 20.
    confidence = np.repeat([0.9, 0.6], [80, 20])
    labels = np.repeat([0, 1, 0, 1], [60, 20, 15, 5])
    found = reliability(two_classes(confidence), labels)
    assert [b.n for b in found.bins] == [20, 80]  # equal ones are not parted
    assert [b.hits for b in found.bins] == [15, 60]
    np.testing.assert_allclose([b.confidence for b in found.bins], [0.6, 0.9], rtol=1e-6)
    assert found.ece == pytest.approx(0.8 * 0.15 + 0.2 * 0.15)


@pytest.mark.parametrize("n", [1, 19, 39, 40, 299, 300, 5000])
def test_bins_have_equally_many_images(n: int) -> None:
    logits, labels = a_sample(n=n)
    sizes = [b.n for b in reliability(logits, labels).bins]
    assert sum(sizes) == n and len(sizes) == max(1, min(MAX_BINS, n // IMAGES_PER_BIN))
    assert max(sizes) - min(sizes) <= 1


def test_the_order_of_the_images_is_of_no_account() -> None:
    logits, labels = a_sample()
    logits = np.round(logits)  # many are equally sure
    order = np.random.default_rng(1).permutation(len(labels))
    first, other = reliability(logits, labels), reliability(logits[order], labels[order])
    assert [(b.n, b.hits) for b in first.bins] == [(b.n, b.hits) for b in other.bins]
    assert first.ece == pytest.approx(other.ece) and first.nll == pytest.approx(other.nll)


def test_the_error_goes_where_the_temperature_is_that_of_the_labels() -> None:
    logits, labels = a_sample(n=40_000, sharpness=3.0)
    assert reliability(logits, labels, 3.0).ece < 0.01 < 0.1 < reliability(logits, labels).ece
