"""Metrics by class are scikit-learn's, over the classes that occur among the labels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from trainables.evaluation.class_metrics import ClassCounts, confusions, count_by_class

CLASSES = 6
PAIRS = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60
)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.array(pairs).T
    return labels, predicted


@settings(deadline=None)
@given(PAIRS)
def test_metrics_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = arrays(pairs)
    counts = count_by_class(labels, predicted, CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are only predicted
        balanced = balanced_accuracy_score(labels, predicted)
    macro = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert counts.value("top1") == pytest.approx(np.mean(labels == predicted))
    assert counts.value("balanced_accuracy") == pytest.approx(balanced)
    assert counts.value("macro_f1") == pytest.approx(macro)


@settings(deadline=None)
@given(PAIRS)
def test_each_class_has_the_numbers_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = arrays(pairs)
    counts = count_by_class(labels, predicted, CLASSES)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(CLASSES), zero_division=np.nan
    )
    np.testing.assert_array_equal(counts.images, support)
    np.testing.assert_allclose(counts.recall, recall)
    np.testing.assert_allclose(counts.precision, precision)
    occurs = support > 0
    np.testing.assert_allclose(counts.f1[occurs], f1[occurs])
    assert np.isnan(counts.f1[~occurs]).all()


@settings(deadline=None)
@given(PAIRS)
def test_confusions_are_what_the_matrix_has_off_its_diagonal(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = arrays(pairs)
    matrix = confusion_matrix(labels, predicted, labels=np.arange(CLASSES))
    np.fill_diagonal(matrix, 0)
    found = confusions(labels, predicted)
    assert [c.images for c in found] == sorted(matrix[matrix > 0].tolist(), reverse=True)
    assert all(matrix[c.label, c.predicted] == c.images for c in found)
    assert len({(c.label, c.predicted) for c in found}) == len(found)


def test_a_net_that_never_says_the_rare_class_has_top_1_alone() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    counts = count_by_class(labels, np.zeros(100, dtype=int), 2)
    assert counts.value("top1") == 0.9
    assert counts.value("balanced_accuracy") == 0.5
    assert counts.value("macro_f1") == pytest.approx((180 / 190) / 2)  # the harmonic mean is 18/19


def test_many_counts_give_many_values() -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, CLASSES, (2, 40)) for _ in range(5)]
    one = [count_by_class(labels, predicted, CLASSES) for labels, predicted in drawn]
    stacked = ClassCounts(
        **{name: np.stack([getattr(c, name) for c in one]) for name in vars(one[0])}
    )
    for metric in ("top1", "balanced_accuracy", "macro_f1"):
        assert stacked.value(metric).tolist() == [float(c.value(metric)) for c in one]
