"""Estimate how much val flatters what it chose, and what the choice is worth on new images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.evaluation.confidence import wilson

RESAMPLES = 300
ROWS_AT_ONCE = 1024  # as numbers of four bytes, an image of val each


def optimism(hits: np.ndarray, seed: int = 0) -> float:
    """Estimate by how much, as a share, the best row's val top-1 is too high for being the best.

    A random half of val chooses the best row, the other half judges it. The difference shrinks with
    the root of the number of images, so that choosing by all of val flatters sqrt(1/2) times as
    much. (A bootstrap of the choosing overstates this by sqrt(2) if it is judged on the images left
    out, and understates it as much if judged on all of val: a resample repeats the chance of val.)
    What val chose within a row, the classifier's setting and epoch, is not in it, and need not be
    where the hits are cross-fitted.

    Args:
        hits: (rows, n): which images of val each row has right, 0 or 1; or other values whose mean
            is what a row would have right. n at least 2.
    """
    return flattery(*halves_of(hits, seed))


def halves_of(hits: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Compute the means of rows on random halves of val, and on the other halves.

    Returns:
        (rows, resamples) each.
    """
    rng = np.random.default_rng(seed)
    n = hits.shape[1]
    order = rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)  # (resamples, n)
    chooses = (order < n // 2).T.astype(np.float32)  # (n, resamples)
    inside = np.empty((len(hits), RESAMPLES), np.float32)
    outside = np.empty_like(inside)
    for first in range(0, len(hits), ROWS_AT_ONCE):
        block = slice(first, first + ROWS_AT_ONCE)
        right = hits[block].astype(np.float32)
        inside[block] = right @ chooses / (n // 2)
        outside[block] = right @ (1 - chooses) / (n - n // 2)
    return inside, outside


def flattery(
    inside: np.ndarray, outside: np.ndarray, groups: Sequence[Sequence[int]] | None = None
) -> float:
    """Estimate, as :func:`optimism` does, from the values on halves that choose and that judge.

    Args:
        inside, outside: (rows, resamples).
        groups: places of rows that are chosen by their mean, and of which the best is then picked;
            None: each row is by itself.
    """
    every = np.arange(inside.shape[1])
    if groups is None:
        best = inside.argmax(axis=0)
    else:
        # The members of most groups are one, and only those of the winners are looked at.
        means = inside[[group[0] for group in groups]]
        for place, group in enumerate(groups):
            if len(group) > 1:
                means[place] = inside[list(group)].mean(axis=0)
        won = [np.array(groups[place]) for place in means.argmax(axis=0)]
        best = np.array([own[inside[own, column].argmax()] for column, own in enumerate(won)])
    return math.sqrt(0.5) * float((inside[best, every] - outside[best, every]).mean())


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """The top-1 to be expected of a choice on images like those of val, as shares."""

    top1: float
    low: float
    """Lower end of the 95 % interval."""
    high: float


def expectation(ranked_top1: float, flattery: float, n: int) -> Expectation:
    """Say what a row that was chosen among many is worth on new images.

    Args:
        ranked_top1: of the row on val, cross-fitted where val picked its classifier.
        flattery: :func:`optimism` of the rows that it was chosen among.
        n: images of val. The interval is Wilson's about the corrected share.
    """
    top1 = min(1.0, max(0.0, ranked_top1 - max(0.0, flattery)))
    low, high = wilson(top1 * n, n)
    return Expectation(top1=top1, low=low, high=high)
