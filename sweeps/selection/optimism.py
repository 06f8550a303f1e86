"""Estimate how much choosing the best of many rows on val flatters it, by choosing on halves."""

from __future__ import annotations

import math

import numpy as np

RESAMPLES = 300


def optimism(hits: np.ndarray, seed: int = 0) -> float:
    """Estimate by how much, as a share, the best row's val top-1 is too high.

    A random half of val chooses the best row, the other half judges it. The difference shrinks with
    the root of the number of images, so that choosing by all of val flatters sqrt(1/2) times as
    much. (A bootstrap of the choosing overstates this by sqrt(2) if it is judged on the images left
    out, and understates it as much if judged on all of val: a resample repeats the chance of val.)
    The estimate leaves out what val chose within a row: the classifier's setting and epoch.

    Args:
        hits: (rows, n) bool: which images of val each row has right; n at least 2.
    """
    rng = np.random.default_rng(seed)
    n = hits.shape[1]
    order = rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)  # (resamples, n)
    chooses = (order < n // 2).T.astype(np.float32)  # (n, resamples)
    right = hits.astype(np.float32)
    inside = right @ chooses / (n // 2)  # (rows, resamples)
    outside = right @ (1 - chooses) / (n - n // 2)
    best = inside.argmax(axis=0), np.arange(RESAMPLES)
    return math.sqrt(0.5) * float((inside[best] - outside[best]).mean())
