"""Predict how long images take through nets on a device, from what has been timed there. Pure.

A training step on a batch takes what the slowest of three takes: the host, to prepare its images
and hand them over; the launches of its layers; and the arithmetic, which goes with multiply-adds
and with the numbers that layers leave, as memory has to move those. A forward pass takes a share of
that. On a GPU the three run beside each other; on CPUs, which do all of it, they add up.

The coefficients are those that explain the timings best, each timing by its ratio. What the timings
leave open is as on a nominal device of the same kind, scaled: one timing scales, more of other nets
and resolutions also tell the coefficients apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median

import numpy as np
from scipy.optimize import least_squares

FORWARD_SHARE = 1 / 3  # of a training step: the backward pass costs about two forward passes


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Images that go through a net once, in batches."""

    gmacs: float
    """Billions of multiply-adds of one image, forward."""
    activations_m: float
    """Millions of numbers that the layers leave of one image."""
    layers: int
    """Convolutions and linear layers."""
    images: float
    batch: int
    """Images at once."""
    train: bool
    """Whether weights are trained; else the pass is forward alone."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is timed as one: an epoch, or a cell."""

    passes: tuple[Pass, ...] = ()
    head_steps: int = 0
    """Steps of the optimiser of classifiers on features, for all their settings at once."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What two works have in common whose seconds are one's times the images of the other."""
        nets = {(p.gmacs, p.activations_m, p.batch, p.train) for p in self.passes}
        return (*sorted(nets), self.head_steps > 0)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a work took."""

    work: Work
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Speed of a device: milliseconds of training."""

    gmac_ms: float
    """A GMAC."""
    activations_ms: float
    """A million activations."""
    image_ms: float
    """An image, whatever the net: to prepare it and hand it over."""
    layer_ms: float
    """A layer's launches in a step."""
    forward_share: float = FORWARD_SHARE
    """A forward pass's share of a training step."""
    head_step_ms: float = 2.0
    """A step of the classifiers' optimiser."""


NOMINAL = Coefficients(
    # Fitted to timm's table of this family on an RTX 3090
    # (benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv), mean error 4 %.
    gmac_ms=0.276,
    activations_ms=0.0622,
    # Not in that table, which has large batches without input: orders of magnitude.
    image_ms=0.05,
    layer_ms=0.05,
)
NOMINAL_DEVICE = "NVIDIA GeForce RTX 3090"

# How far the coefficients of a device may be from the nominal ones, beside its scale: standard
# deviations of their logarithms. Host and launches are not the device's own, and vary most.
_SPREAD = {
    "scale": 5.0,
    "activations_ms": 0.7,
    "image_ms": 3.0,
    "layer_ms": 1.5,
    "forward_share": 0.3,
    "head_step_ms": 2.0,
}
FITTED = 60  # timings that coefficients are fitted to, at most
_NOISE = 0.1  # of a timing: the standard deviation of its logarithm


@dataclass(frozen=True)
class Speed:
    """Predicts the seconds of works on one device.

    Args:
        on_gpu: whether host, launches and arithmetic run beside each other; else they add up.
        timings: of works on the device; none: it is taken for the nominal one.
    """

    on_gpu: bool
    timings: tuple[Timing, ...] = field(default=())

    @cached_property
    def coefficients(self) -> Coefficients:
        """Those that explain the timings best."""
        if not self.timings:
            return NOMINAL
        # A few dozen tell all that there is to tell, in whatever order they came.
        timings = self.timings[:: math.ceil(len(self.timings) / FITTED)]
        table = _Table([timing.work for timing in timings], on_gpu=self.on_gpu)
        seconds = np.array([timing.seconds for timing in timings])
        names, spread = list(_SPREAD), np.array(list(_SPREAD.values()))
        start = np.zeros(len(names))
        start[0] = float(np.median(np.log(seconds / table.seconds(NOMINAL))))

        def residuals(logs: np.ndarray) -> np.ndarray:
            predicted = table.seconds(_scaled(dict(zip(names, logs, strict=True))))
            return np.concatenate([np.log(predicted / seconds) / _NOISE, logs / spread])

        # A timing that another program spoiled pulls no harder than two that are right.
        found = least_squares(residuals, start, loss="soft_l1", f_scale=1.0)
        return _scaled(dict(zip(names, found.x, strict=True)))

    def seconds(self, work: Work) -> float:
        """Predict the seconds of a work.

        Where works of the same kind were timed, by what they took; else by the coefficients.
        """
        (predicted,) = _Table([work], on_gpu=self.on_gpu).seconds(self.coefficients)
        return float(predicted) * self._correction.get(work.kind, 1.0)

    def has_timed(self, kind: tuple[object, ...]) -> bool:
        """Whether works of a kind were timed."""
        return kind in self._correction

    @cached_property
    def _correction(self) -> Mapping[tuple[object, ...], float]:
        """The median of measured by predicted seconds, by kind of work."""
        if not self.timings:
            return {}
        works = [timing.work for timing in self.timings]
        predicted = _Table(works, on_gpu=self.on_gpu).seconds(self.coefficients)
        ratios: dict[tuple[object, ...], list[float]] = {}
        for timing, seconds in zip(self.timings, predicted, strict=True):
            ratios.setdefault(timing.work.kind, []).append(timing.seconds / seconds)
        return {kind: median(found) for kind, found in ratios.items()}


class _Table:
    """The passes of works as columns, of which seconds are made at once."""

    def __init__(self, works: Sequence[Work], *, on_gpu: bool):
        rows = [
            (place, one.gmacs, one.activations_m, one.layers, one.images, one.batch, one.train)
            for place, work in enumerate(works)
            for one in work.passes
        ]
        columns = np.array(rows, dtype=float).reshape(-1, 7).T
        place, self._gmacs, self._activations, layers, self._images, batch, self._train = columns
        self._place, self._count = place.astype(int), len(works)
        batch = np.maximum(1, np.minimum(batch, np.ceil(self._images)))
        self._layers = layers / batch  # an image
        self._head_steps = np.array([work.head_steps for work in works], dtype=float)
        self._on_gpu = on_gpu

    def seconds(self, speed: Coefficients) -> np.ndarray:
        """Predict the seconds of each work: (n,) float64."""
        arithmetic = speed.gmac_ms * self._gmacs + speed.activations_ms * self._activations
        host = np.full_like(arithmetic, speed.image_ms)
        parts = np.stack([host, speed.layer_ms * self._layers, arithmetic])
        image_ms = parts.max(axis=0) if self._on_gpu else parts.sum(axis=0)
        share = np.where(self._train > 0, 1.0, speed.forward_share)
        passes = np.bincount(self._place, self._images * image_ms * share, minlength=self._count)
        return np.maximum(1e-12, (passes + self._head_steps * speed.head_step_ms) / 1000)


def _scaled(logs: Mapping[str, float]) -> Coefficients:
    """Make the coefficients that differ from the nominal ones by these logarithms."""
    scale = math.exp(logs["scale"])
    changed = {n: getattr(NOMINAL, n) * math.exp(v) for n, v in logs.items() if n != "scale"}
    for name in ("activations_ms", "image_ms", "layer_ms"):
        changed[name] *= scale
    changed["forward_share"] = min(1.0, changed["forward_share"])
    return replace(NOMINAL, gmac_ms=NOMINAL.gmac_ms * scale, **changed)


def combined(timings: Sequence[Timing], of_a_kind: int = 5) -> tuple[Timing, ...]:
    """Keep the latest timings of each kind of work, in their order."""
    kept: dict[tuple[object, ...], list[int]] = {}
    for place, timing in enumerate(timings):
        kept.setdefault(timing.work.kind, []).append(place)
    places = sorted(place for found in kept.values() for place in found[-of_a_kind:])
    return tuple(timings[place] for place in places)
