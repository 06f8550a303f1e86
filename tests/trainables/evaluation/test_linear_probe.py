"""A linear probe is the optimum that scikit-learn finds."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from trainables.evaluation.linear_probe import RIDGES, Probe, fit_probe, fitted

CLASSES, WIDTH = 3, 6


def drawn(count, seed=0, apart=1.0):
    """Classes that overlap, in features of which one is constant."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(CLASSES, WIDTH)) * apart
    labels = rng.integers(0, CLASSES, count)
    x = centres[labels] + rng.normal(size=(count, WIDTH)) + 3
    x[:, 2] = 7.0
    return torch.tensor(x, dtype=torch.float32), torch.tensor(labels)


def centred(x, by=None):
    """Centred, and scaled by one number."""
    mean = (x if by is None else by).mean(dim=0)
    return (x - mean) / ((x if by is None else by) - mean).square().mean().sqrt()


@pytest.mark.parametrize("ridge", [0.1, 1e-3])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]], ids=["alike", "weighted"])
def test_it_is_scikit_learns_optimum(ridge, weights):
    x, labels = drawn(200)
    x = centred(x)
    class_weights = None if weights is None else torch.tensor(weights)
    total = len(x) if class_weights is None else class_weights[labels].sum().item()
    sklearns = LogisticRegression(
        C=1 / (ridge * total),  # it sums the loss where it is a mean here
        class_weight=None if weights is None else dict(enumerate(weights)),
        tol=1e-8,
        max_iter=2000,
    ).fit(x.double().numpy(), labels.numpy())
    start = Probe(torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES))
    probe = fitted(x, labels, start, ridge, class_weights)
    found = (x @ probe.weight.T + probe.bias).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, sklearns.predict_proba(x.numpy()), atol=3e-3)


def test_the_probe_is_of_the_features_as_they_are_and_of_the_best_weight_decay():
    x, labels = drawn(200, apart=0.4)
    probe = fit_probe(x, labels, CLASSES)
    z = centred(x)
    start = Probe(torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES))
    candidates = [fitted(z, labels, start, ridge) for ridge in RIDGES]
    found = x @ probe.weight.T + probe.bias
    off = [(found - (z @ c.weight.T + c.bias)).abs().max().item() for c in candidates]
    assert min(off) < 1e-2
    new_x, new_labels = drawn(5000, seed=1, apart=0.4)
    new_z = centred(new_x, by=x)
    losses = [cross_entropy(new_z @ c.weight.T + c.bias, new_labels).item() for c in candidates]
    own = cross_entropy(new_x @ probe.weight.T + probe.bias, new_labels).item()
    assert own < min(losses) + 0.1 * (max(losses) - min(losses))


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_few_images_have_a_probe_too(count):
    x, labels = drawn(count)
    probe = fit_probe(x, labels, CLASSES)
    assert all(part.isfinite().all() for part in probe)
    assert probe.weight.shape == (CLASSES, WIDTH) and probe.bias.shape == (CLASSES,)


def test_a_feature_that_hardly_varies_has_no_large_weights():
    """Else what moves it a little, as training does, would move logits far."""
    x, labels = drawn(200)
    x[:, 2] += 1e-4 * torch.arange(len(x)).remainder(2)
    probe = fit_probe(x, labels, CLASSES)
    assert probe.weight[:, 2].abs().max() < probe.weight.abs().max()
