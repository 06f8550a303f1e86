"""Calibration: how often a net is right where it says that it is 90 % sure, and a temperature.

Imports no torch. Logits are float32; all sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

LOWEST, HIGHEST = 0.05, 20.0  # temperatures between which the best is looked for
MAX_BINS = 15
IMAGES_PER_BIN = 20  # at least, where there are more bins than one


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images about whose class a net is about equally sure."""

    n: int
    confidence: float
    """Mean probability of the predicted class."""
    hits: int

    @property
    def gap(self) -> float:
        """How far the share of hits is from the confidence; above 0: surer than right."""
        return self.confidence - self.hits / self.n


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well a net's probabilities fit the labels of some images."""

    n: int
    nll: float
    """Mean cross-entropy, in nats: minus the logarithm of the label's probability."""
    bins: tuple[Bin, ...]
    """From the least sure to the surest."""

    @property
    def ece(self) -> float:
        """Expected calibration error, a share: the mean size of the bins' gaps over the images.

        Even a calibrated net has one above 0, the more so the fewer images there are, as the hits
        of a bin vary by chance.
        """
        return sum(b.n * abs(b.gap) for b in self.bins) / self.n


def reliability(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Reliability:
    """Compare probabilities, softmax(logits / temperature), with the labels.

    The bins have equally many images each ("equal mass": their errors vary less than those of bins
    of equal width; Nixon et al., arXiv:1904.01685): at least 20, and there are at most 15. Images
    of the same confidence are in the same bin.

    Args:
        logits: (n, C) float32, n at least 1; minus infinity for classes that are ruled out.
        labels: (n,) positions of classes.
    """
    n = len(labels)
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
    # By the logits: probabilities round to equal ones.
    predicted = logits.argmax(axis=1)
    confidence = probabilities[np.arange(n), predicted]
    count = max(1, min(MAX_BINS, n // IMAGES_PER_BIN))
    edges = np.sort(confidence)[np.arange(1, count) * n // count]
    places = np.searchsorted(edges, confidence, side="right")
    return Reliability(
        n=n,
        nll=mean_nll(logits, labels, temperature),
        bins=tuple(
            Bin(
                n=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                hits=int((predicted == labels)[inside].sum()),
            )
            for inside in (places == place for place in range(count))
            if inside.any()
        ),
    )


def mean_nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Compute the mean cross-entropy of softmax(logits / temperature), in nats."""
    scaled = logits.astype(np.float64) / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Find the temperature with the least :func:`mean_nll` (Guo et al., arXiv:1706.04599).

    In its inverse the mean cross-entropy is convex, so that it has one minimum: where its slope
    is 0.

    Args:
        logits, labels: as for :func:`reliability`; no label is ruled out.

    Returns:
        The temperature; None where the least is not between 0.05 and 20, as where no image is
        wrong: probabilities are then the better the more extreme they are, and nothing bounds them.
    """
    exact = logits.astype(np.float64)
    own = exact[np.arange(len(labels)), labels]
    finite = np.where(np.isfinite(exact), exact, 0.0)  # of probability 0, whatever stands there

    def slope(inverse: float) -> float:
        expected = (softmax(inverse * exact, axis=1) * finite).sum(axis=1)
        return float((expected - own).mean())

    low, high = 1 / HIGHEST, 1 / LOWEST
    if not (slope(low) < 0 < slope(high)):
        return None
    return float(1 / brentq(slope, low, high, xtol=1e-12, rtol=1e-12))
