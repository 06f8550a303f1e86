"""Adapt to a resolution without training: map activations back to their former distribution.

Pooling over a larger map changes how the classifier's inputs are spread. FixRes (Touvron et al.,
arXiv:1906.06423, section 4.2, the parametric adaptation) fits a Fréchet-type law to the pooled
activations of all channels at the train resolution (old) and another at the test resolution (new),
and applies ``F_old^-1(F_new(x))`` as an activation after pooling. The law is the generalised
extreme value distribution of positive shape,

    F(x) = exp(-(1 + shape (x - location) / scale)^(-1 / shape))

With one shape for both laws the map is affine: ``y = location_old + gain (x - location_new)``,
``gain = scale_old / scale_new``; so it costs nothing at inference: it folds into the classifier.

Differences to the paper, for activations below 0. The paper's nets end in ReLU: their activations
start at 0, and so does the map, which is clipped there. EfficientNet's come after SiLU, which goes
down to -0.278, and no share of them is exactly 0. So the location is free, which lets the law reach
below 0 (down to location - scale / shape); the fit is by quantiles from 5 % to 95 %, so that it
does not depend on the ends, where the law may not hold; and nothing is clipped: a clip would cut
off activations that the net uses, and a clipped map does not fold. The Lite nets (ReLU6) do have a
share of activations at 0; they get the same unclipped map, which moves it by ``offset``, so that
it folds for them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from trainables.models.device import in_float64

PROBABILITIES = np.linspace(0.05, 0.95, 91)  # A law is fitted to the quantiles at these.
SHAPES = np.linspace(0.02, 1.0, 197)  # The common shape is the best of these.
MAX_ACTIVATIONS = 2**24  # beyond which quantiles come from a sample of the images


@dataclass(frozen=True)
class Law:
    """A generalised extreme value law of positive shape; at scale 0 it has one value, location."""

    shape: float
    location: float
    scale: float

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Compute the probability of a value up to ``x``: float64 of the shape of ``x``."""
        if self.scale == 0:
            return np.where(x >= self.location, 1.0, 0.0)
        base = np.maximum(
            1 + self.shape * (np.asarray(x, np.float64) - self.location) / self.scale, 0
        )
        with np.errstate(divide="ignore", over="ignore"):  # Below the support: exp(-inf) = 0.
            return np.exp(-(base ** (-1 / self.shape)))

    def quantile(self, q: np.ndarray) -> np.ndarray:
        """Compute the value at probability ``q``, 0 <= q < 1: float64 of the shape of ``q``."""
        return self.location + self.scale * _standard_quantile(q, self.shape)


@dataclass(frozen=True)
class ScalarMap:
    """The map ``x -> gain x + offset``, the same for every channel."""

    gain: float
    offset: float


IDENTITY = ScalarMap(1.0, 0.0)


def quantiles(features: np.ndarray) -> np.ndarray:
    """Compute the quantiles at ``PROBABILITIES`` of all activations together.

    Args:
        features: (N, F), N and F at least 1. Beyond ``MAX_ACTIVATIONS`` activations, a fixed random
            sample of the images stands for all: the same images in two arrays of the same N.

    Returns:
        (len(PROBABILITIES),) float64; NaN or infinite where the features are.
    """
    count, width = features.shape
    wanted = max(1, MAX_ACTIVATIONS // width)
    if count > wanted:
        chosen = np.random.default_rng(0).choice(count, wanted, replace=False)
        features = features[np.sort(chosen)]
    values = np.array(features, np.float64).reshape(-1)
    return np.quantile(values, PROBABILITIES, overwrite_input=True)


def fit_laws(old: np.ndarray, new: np.ndarray) -> tuple[Law, Law]:
    """Fit both laws, of one shape, to :func:`quantiles` at the old and the new resolution.

    Given the shape, a quantile is linear in location and scale: least squares has a closed form.
    The shape is the one of ``SHAPES`` with the least sum of squared residuals, each law's relative
    to the variance of its quantiles, so that the wider one does not decide alone.

    Args:
        old, new: (len(PROBABILITIES),) float64, ascending.

    Returns:
        The old and the new law. Quantiles that are all equal, or not all finite, give scale 0.
    """
    both = [q for q in (old, new) if _varies(q)]
    residuals = [sum(_fit(q, shape)[1] for q in both) for shape in SHAPES]
    shape = float(SHAPES[int(np.argmin(residuals))])

    def law(q: np.ndarray) -> Law:
        if not _varies(q):
            return Law(shape, float(np.nan_to_num(q[0], posinf=0.0, neginf=0.0)), 0.0)
        return _fit(q, shape)[0]

    return law(old), law(new)


def map_between(old: Law, new: Law) -> ScalarMap:
    """Compute ``F_old^-1(F_new(x))`` for two laws of one shape; the identity where a scale is 0.

    A law without spread does not say how to stretch, and a gain of 0 would make all activations
    one value.
    """
    assert old.shape == new.shape, "the map is affine only between laws of one shape"
    if old.scale <= 0 or new.scale <= 0:
        return IDENTITY
    gain = old.scale / new.scale
    offset = old.location - gain * new.location
    return ScalarMap(gain, offset) if math.isfinite(offset) else IDENTITY


def fold(
    scalar_map: ScalarMap, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the classifier that does on x what the given one does on the mapped x.

    Args:
        weight, bias: (C, F) and (C,).

    Returns:
        New tensors of the same shapes, dtypes and device; the arithmetic is float64.
    """
    rows = in_float64(weight)
    moved = in_float64(bias) + scalar_map.offset * rows.sum(dim=1)
    folded = (scalar_map.gain * rows).to(weight.dtype), moved.to(bias.dtype)
    return folded[0].to(weight.device), folded[1].to(bias.device)


def _standard_quantile(q: np.ndarray, shape: float) -> np.ndarray:
    """Compute a quantile of the law with location 0 and scale 1."""
    with np.errstate(divide="ignore"):
        value: np.ndarray = ((-np.log(q)) ** -shape - 1) / shape
    return value


def _varies(q: np.ndarray) -> bool:
    """Say whether a law can be fitted: all finite, with a spread that can be squared."""
    if not np.isfinite(q).all():
        return False
    return bool(q[-1] - q[0] > 1e-12 * max(abs(q[0]), abs(q[-1]), 1e-100))


def _fit(q: np.ndarray, shape: float) -> tuple[Law, float]:
    """Fit a law of a shape by least squares; the residual as a share of the quantiles' variance."""
    basis = _standard_quantile(PROBABILITIES, shape)
    x, y = basis - basis.mean(), q - q.mean()
    scale = float(x @ y / (x @ x))
    rest = y - scale * x
    return Law(shape, float(q.mean() - scale * basis.mean()), scale), float(rest @ rest / (y @ y))
