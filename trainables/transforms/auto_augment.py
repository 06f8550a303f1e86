"""Distort crops by operations drawn at random: torchvision's RandAugment and TrivialAugment.

RandAugment (Cubuk et al., arXiv:1909.13719) applies two operations of medium strength,
TrivialAugment (Müller and Hutter, arXiv:2103.10158) one of any strength. Operations, strengths and
defaults are torchvision's, on bytes; what they move in from outside is black. torchvision draws
from PyTorch's global generator, which threads share with dropout; here all is drawn beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torchvision.transforms import v2

from trainables.transforms.augmentation import AutoAugment
from trainables.transforms.byte_operations import OPERATIONS


class DrawnOperations:
    """The operations of N images."""

    def __init__(self, kind: AutoAugment, count: int, side: int, rng: np.random.Generator):
        """Draw them.

        Args:
            count: N.
            side: of the images, px.
        """
        transform: Any = {
            "rand": v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR),
            "trivial": v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
        }[kind]
        bins, each = transform.num_magnitude_bins, 2 if kind == "rand" else 1
        shape = (count, each)
        self._names = list(transform._AUGMENTATION_SPACE)
        self._chosen = rng.integers(0, len(self._names), shape)
        self._strengths = rng.integers(0, bins, shape)
        if kind == "rand":
            self._strengths[:] = transform.magnitude
        self._negative = rng.random(shape) < 0.5  # of operations that have a direction
        self._magnitudes = [
            _values(space, bins, side) for space in transform._AUGMENTATION_SPACE.values()
        ]

    def apply(self, image: np.ndarray, number: int) -> None:
        """Distort an image, in place.

        Args:
            image: (R, R, 3) uint8, contiguous.
            number: of the image, from 0.
        """
        draws = zip(
            *(part[number].tolist() for part in (self._chosen, self._strengths, self._negative)),
            strict=True,
        )
        for chosen, strength, negative in draws:
            magnitude = self._magnitudes[chosen][int(negative)][strength]
            OPERATIONS[self._names[chosen]](image, magnitude)


def _values(space: Any, bins: int, side: int) -> tuple[list[float], list[float]]:
    """The strengths of an operation, in its direction and in the other where it has one."""
    strengths, has_direction = space
    found = strengths(bins, side, side)
    values = [0.0] * bins if found is None else [float(value) for value in found]
    return values, [-value for value in values] if has_direction else values
