"""Pixels in: the test transform, made once and kept; the train transform, drawn anew each epoch.

Everything stays uint8 until it is on the device (:func:`to_device`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainables.transforms.resolution import resize_side

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Resize the short side, then crop the centre: timm's evaluation transform, pixel for pixel."""

    test_res: int  # px
    crop_pct: float  # side of the centre crop over the resized short side
    interpolation: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (test_res, test_res, 3) uint8."""
        return self.cropped(self.resized(image))

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Width and height, px, before the crop."""
        side = resize_side(self.test_res, self.crop_pct)
        other = int(side * max(height, width) / min(height, width))
        return (side, other) if width <= height else (other, side)

    def resized(self, image: np.ndarray) -> Image.Image:
        """The picture before the crop."""
        size = self.resized_size(*image.shape[:2])
        picture = Image.fromarray(image)
        if picture.size == size:
            return picture
        return picture.resize(size, RESAMPLING[self.interpolation])

    def cropped(self, picture: Image.Image, shift: int = 0) -> np.ndarray:
        """The square at the centre, or ``shift`` px to the right: (test_res, test_res, 3) uint8."""
        res = self.test_res
        left = round((picture.width - res) / 2) + shift
        top = round((picture.height - res) / 2)
        # A crop ratio over 1 would reach outside, where PIL pads with black as torchvision does.
        return np.asarray(picture.crop((left, top, left + res, top + res)))
