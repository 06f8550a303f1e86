"""Resampled values are the metric of the resample; errors are those of the difference."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from sweeps.selection.resampling import Resampler
from trainables.evaluation.class_metrics import Metric
from trainables.evaluation.confidence import paired_difference

RNG = np.random.default_rng(0)
METRICS: tuple[Metric, ...] = ("top1", "balanced_accuracy", "macro_f1")


def nets(n: int, rates: tuple[float, ...], classes: int = 4, seed: int = 0):
    """Labels of uneven classes, and nets that are right so often, each by itself."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.array([0.6, 0.25, 0.1, 0.05]))
    said = [np.where(rng.random(n) < rate, labels, rng.integers(classes, size=n)) for rate in rates]
    return labels, said


def plain(metric: Metric, labels: np.ndarray, predicted: np.ndarray) -> float:
    if metric == "top1":
        return float(np.mean(labels == predicted))
    if metric == "balanced_accuracy":
        return balanced_accuracy_score(labels, predicted)
    present = np.unique(labels)
    return f1_score(labels, predicted, labels=present, average="macro", zero_division=0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_a_weighted_value_is_that_of_the_images_repeated(metric: Metric) -> None:
    labels, said = nets(60, (0.8, 0.5))
    weights = RNG.integers(0, 3, (5, 60))
    found = Resampler(metric=metric, labels=labels, predicted=said).weighted(weights)
    assert found.shape == (2, 5)
    for net, predicted in enumerate(said):
        for i, counts in enumerate(weights):
            drawn = np.repeat(np.arange(60), counts)
            expected = plain(metric, labels[drawn], predicted[drawn])
            assert found[net, i] == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_values_and_differences_are_on_all_images(metric: Metric) -> None:
    labels, said = nets(300, (0.9, 0.7, 0.9))
    judge = Resampler(metric=metric, labels=labels, predicted=said)
    expected = [plain(metric, labels, predicted) for predicted in said]
    np.testing.assert_allclose(judge.values, expected)
    differences, errors = judge.differences(1)
    np.testing.assert_allclose(differences, expected[1] - np.array(expected))
    assert errors[1] == 0 and (errors[[0, 2]] > 0).all()


@pytest.mark.parametrize("unlike", [1, 3, 20, 300])
def test_the_bootstrap_error_of_top_1_is_that_of_the_formula(unlike: int) -> None:
    labels, (first, _) = nets(2000, (0.9, 0.8))
    other = first.copy()
    changed = np.flatnonzero(first == labels)[:unlike]
    other[changed] = (labels[changed] + 1) % 4
    _, errors = Resampler(metric="top1", labels=labels, predicted=[first, other]).differences(0)
    _, expected = paired_difference(first == labels, other == labels)
    assert errors[1] == pytest.approx(expected, rel=0.15)  # of 300 resamples: 4 %


def test_nets_that_err_on_the_same_images_differ_with_less_error() -> None:
    labels, (first, other) = nets(1000, (0.8, 0.8))
    near = first.copy()
    changed = np.flatnonzero(first == labels)[:20]
    near[changed] = (labels[changed] + 1) % 4
    for metric in ("balanced_accuracy", "macro_f1"):
        judge = Resampler(metric=metric, labels=labels, predicted=[first, near, other])
        _, errors = judge.differences(0)
        assert 0 < errors[1] < errors[2] / 2


@pytest.mark.parametrize("metric", METRICS)
def test_choosing_among_equals_flatters_and_among_one_does_not(metric: Metric) -> None:
    many, alone, truth = [], [], []
    for seed in range(10):
        labels, said = nets(400, (0.7,) * 20, seed=seed)
        judge = Resampler(metric=metric, labels=labels, predicted=said)
        many.append(judge.optimism())
        alone.append(Resampler(metric=metric, labels=labels, predicted=said[:1]).optimism())
        # All are as good, so that the best is too high by how far it is above their mean.
        truth.append(judge.values.max() - judge.values.mean())
    assert 0.6 < np.mean(many) / np.mean(truth) < 1.5
    assert abs(np.mean(alone)) < np.mean(many) / 4


def test_the_same_seed_gives_the_same() -> None:
    labels, said = nets(200, (0.9, 0.7))
    judge = Resampler(metric="macro_f1", labels=labels, predicted=said)
    for first, again in zip(judge.differences(0), judge.differences(0), strict=True):
        np.testing.assert_array_equal(first, again)
    assert judge.optimism() == judge.optimism() != judge.optimism(seed=1)
