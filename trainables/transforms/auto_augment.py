"""Distort crops by operations drawn at random: torchvision's RandAugment and TrivialAugment.

RandAugment (Cubuk et al., arXiv:1909.13719) applies two operations of medium strength,
TrivialAugment (Müller and Hutter, arXiv:2103.10158) one of any strength. Operations, strengths and
defaults are torchvision's, on bytes; what they move in from outside is black. torchvision draws
from PyTorch's global generator, which threads share with dropout; here all is drawn beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from trainables.transforms.augmentation import AutoAugment


class DrawnOperations:
    """The operations of N images."""

    def __init__(self, kind: AutoAugment, count: int, side: int, rng: np.random.Generator):
        """Draw them.

        Args:
            count: N.
            side: of the images, px.
        """
        self._transform: Any = {
            "rand": v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR),
            "trivial": v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
        }[kind]
        bins, each = self._transform.num_magnitude_bins, 2 if kind == "rand" else 1
        shape = (count, each)
        self._names = list(self._transform._AUGMENTATION_SPACE)
        self._chosen = rng.integers(0, len(self._names), shape)
        self._strengths = rng.integers(0, bins, shape)
        if kind == "rand":
            self._strengths[:] = self._transform.magnitude
        self._negative = rng.random(shape) < 0.5  # of operations that have a direction
        self._magnitudes = [
            _values(space, bins, side) for space in self._transform._AUGMENTATION_SPACE.values()
        ]

    def apply(self, image: np.ndarray, number: int) -> None:
        """Distort an image, in place.

        Args:
            image: (R, R, 3) uint8.
            number: of the image, from 0.
        """
        x = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        draws = zip(
            *(part[number].tolist() for part in (self._chosen, self._strengths, self._negative)),
            strict=True,
        )
        for chosen, strength, negative in draws:
            magnitude = self._magnitudes[chosen][int(negative)][strength]
            x = self._transform._apply_image_or_video_transform(
                x,
                self._names[chosen],
                magnitude,
                interpolation=self._transform.interpolation,
                fill=self._transform._fill,
            )
        image[:] = x.permute(1, 2, 0).numpy()


def _values(space: Any, bins: int, side: int) -> tuple[list[float], list[float]]:
    """The strengths of an operation, in its direction and in the other where it has one."""
    strengths, has_direction = space
    found = strengths(bins, side, side)
    values = [0.0] * bins if found is None else [float(value) for value in found]
    return values, [-value for value in values] if has_direction else values
