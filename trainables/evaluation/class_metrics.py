"""Metrics that weigh every class alike, from labels and predicted classes. Imports no torch.

Where classes are uneven, a net that never says a rare class loses little top-1. Balanced accuracy
and macro-F1 are means over the classes that occur among the labels, whatever their sizes: for one
set of images the mean is over the same classes, whatever is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Metric = Literal["top1", "balanced_accuracy", "macro_f1"]
IN_WORDS: dict[Metric, str] = {
    "top1": "top-1",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
}


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Images by class, (..., C) each: numbers, or sums of weights."""

    images: np.ndarray
    """Those that are of the class."""
    predicted: np.ndarray
    """Those that are said to be."""
    hits: np.ndarray
    """Those that are both."""

    @property
    def recall(self) -> np.ndarray:
        """Share of a class's images that are found: (..., C), NaN where it has none."""
        return _shares(self.hits, self.images)

    @property
    def precision(self) -> np.ndarray:
        """Share of what is said to be of a class that is: (..., C), NaN where nothing is."""
        return _shares(self.hits, self.predicted)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of recall and precision: (..., C), NaN where a class has no images.

        It is 2 hits / (images + predicted), and so 0 where nothing is said to be of the class.
        """
        f1 = _shares(2 * self.hits, self.images + self.predicted)
        return np.where(self.images > 0, f1, np.nan)

    def value(self, metric: Metric) -> np.ndarray:
        """Compute a metric: (...), shares; NaN where there are no images at all."""
        if metric == "top1":
            return _shares(self.hits.sum(axis=-1), self.images.sum(axis=-1))
        by_class = self.recall if metric == "balanced_accuracy" else self.f1
        occurs = self.images > 0
        return _shares(np.where(occurs, by_class, 0).sum(axis=-1), occurs.sum(axis=-1))


def count_by_class(labels: np.ndarray, predicted: np.ndarray, classes: int) -> ClassCounts:
    """Count images by class.

    Args:
        labels, predicted: (n,) positions of classes.
        classes: C, their number.
    """
    return ClassCounts(
        images=np.bincount(labels, minlength=classes),
        predicted=np.bincount(predicted, minlength=classes),
        hits=np.bincount(labels[predicted == labels], minlength=classes),
    )


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that are taken for another."""

    label: int
    predicted: int
    images: int


def confusions(labels: np.ndarray, predicted: np.ndarray) -> list[Confusion]:
    """List which classes are taken for which, the most frequent first, then in their order.

    Only pairs that occur are made, as a matrix of 20,000 classes would not fit into memory.
    """
    wrong = labels != predicted
    pairs = np.stack([labels[wrong], predicted[wrong]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        Confusion(label=int(kinds[i, 0]), predicted=int(kinds[i, 1]), images=int(counts[i]))
        for i in order
    ]


def _shares(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    wholes = np.asarray(wholes, dtype=float)
    shares: np.ndarray = np.full(wholes.shape, np.nan)
    np.divide(parts, wholes, out=shares, where=wholes > 0)
    return shares
