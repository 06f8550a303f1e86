"""Intervals and standard errors of shares of hits, and of differences between two."""

from __future__ import annotations

import math

import numpy as np

Z95 = 1.96  # standard errors either side that a 95 % interval has


def wilson(hits: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Compute Wilson's score interval of hits / n, 95 % by default, for n at least 1.

    It is within 0 and 1, and has a width where all or no images are hits (Wilson, JASA 22, 1927).
    """
    share = hits / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def paired_error(only_first: int, only_second: int, n: int) -> float:
    """Estimate the standard error of the difference of two shares of the same ``n`` images.

    Only images that one has right and the other wrong count (McNemar); half an image is added to
    each of the four kinds, so that it is not 0 where there are none (Agresti and Min,
    Biometrics 61, 2005).

    Args:
        only_first, only_second: images that the first, or the second, alone has right.
    """
    b, c, n = only_first + 0.5, only_second + 0.5, n + 2
    return math.sqrt(b + c - (b - c) ** 2 / n) / n


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Compute the first share of hits minus the second, and its :func:`paired_error`.

    Args:
        first, second: (n,) bool, hits on the same images.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = len(first)
    return (only_first - only_second) / n, paired_error(only_first, only_second, n)


def paired_difference_of_means(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Compute the first mean minus the second, and its standard error, image by image.

    Of hits it is :func:`paired_difference`; one image more counts as in :func:`paired_error`.

    Args:
        first, second: (n,) of shares from 0 to 1, as of several nets that have an image right.
    """
    by_image = first.astype(np.float64) - second.astype(np.float64)
    n, total = len(by_image), float(by_image.sum())
    squares = float((by_image**2).sum()) + 1
    return total / n, math.sqrt(squares - total**2 / (n + 2)) / (n + 2)


def standard_error(hits: int, n: int) -> float:
    """Estimate the standard error of hits / n; it is not 0 where all or no images are hits.

    Two hits and two misses are added (Agresti and Coull, The American Statistician 52, 1998).
    """
    share = (hits + 2) / (n + 4)
    return math.sqrt(share * (1 - share) / (n + 4))
