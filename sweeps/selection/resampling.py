"""Values of a metric on resamples of val: its errors, and how far choosing flatters it. Pure.

Top-1 has closed forms (:mod:`trainables.evaluation.confidence`); a mean over classes has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from sweeps.selection.optimism import flattery
from trainables.evaluation.class_metrics import ClassCounts, Metric, count_by_class

RESAMPLES = 300


@dataclass(frozen=True, kw_only=True)
class Resampler:
    """What several nets say of the same images, and the metric they are judged by."""

    metric: Metric
    labels: np.ndarray
    """(n,) positions of classes."""
    predicted: Sequence[np.ndarray]
    """(n,) each: of each net."""

    @property
    def values(self) -> np.ndarray:
        """The metric of each net on all images: (nets,)."""
        counts = [count_by_class(self.labels, one, self._classes) for one in self.predicted]
        return np.array([float(c.value(self.metric)) for c in counts])

    def differences(
        self, first: int, groups: Sequence[Sequence[int]] | None = None, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute by how much group ``first`` is better than each, and the standard errors.

        The errors are those of a paired bootstrap: images are drawn with replacement, for all nets
        the same. A class that a resample misses is left out of its means. To the images that two
        nets take for different classes one is added, as :func:`.paired_error` adds half an image
        to each kind of them: else a single image would be known to be no accident.

        Args:
            groups: places of nets whose mean counts; None: each net is by itself.

        Returns:
            (groups,) each; the same seed gives the same.
        """
        groups = groups or [(place,) for place in range(len(self.predicted))]
        n = len(self.labels)
        rng = np.random.default_rng(seed)
        weights = np.stack(
            [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]
        )
        nets, own = self.weighted(weights), self.values
        resampled = np.stack([nets[list(group)].mean(axis=0) for group in groups])
        errors = (resampled[first] - resampled).std(axis=1, ddof=1)
        unlike = np.array([self._unlike(groups[first], group) for group in groups])
        values = np.array([own[list(group)].mean() for group in groups])
        return values[first] - values, errors * np.sqrt(1 + 1 / np.maximum(unlike, 1))

    def optimism(self, seed: int = 0) -> float:
        """Estimate by how much, as a share, the best net's value is too high.

        As :func:`.optimism.optimism` does: a half of the images chooses, the other half judges.
        """
        return flattery(*self.halves(seed))

    def halves(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Compute the metric of each net on random halves of the images, and on the others.

        Returns:
            (nets, resamples) each.
        """
        n = len(self.labels)
        rng = np.random.default_rng(seed)
        order = rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)
        chooses = order < n // 2  # (resamples, n)
        return self.weighted(chooses), self.weighted(~chooses)

    def _unlike(self, first: Sequence[int], second: Sequence[int]) -> float:
        """Count the images that two nets take for different classes: the mean over all pairs."""
        pairs = [(self.predicted[i], self.predicted[j]) for i in first for j in second]
        return float(np.mean([(one != other).sum() for one, other in pairs]))

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Compute the metric of each net with images counted so often: (nets, resamples).

        Args:
            weights: (resamples, n), each with a positive sum.
        """
        weights = weights.astype(np.float64)
        images = self._by_class(self.labels, weights)
        values = []
        for predicted in self.predicted:
            hits = predicted == self.labels
            counts = ClassCounts(
                images=images,
                predicted=self._by_class(predicted, weights),
                hits=self._by_class(self.labels[hits], weights[:, hits]),
            )
            values.append(counts.value(self.metric))
        return np.stack(values)

    def _by_class(self, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add the weights (resamples, m) of images up by their classes (m,): (resamples, C)."""
        n = len(classes)
        places = csr_array((np.ones(n), classes, np.arange(n + 1)), shape=(n, self._classes))
        summed: np.ndarray = np.asarray(weights @ places)
        return summed

    @property
    def _classes(self) -> int:
        return 1 + max(int(one.max()) for one in (self.labels, *self.predicted))
