"""Resize and crop images as in testing: timm's evaluation transform, in uint8."""

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
    interpolation: str  # a key of RESAMPLING

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop: (H, W, 3) uint8 -> (test_res, test_res, 3) uint8."""
        return self.cropped(self.resized(image))

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute the width and height, px, to resize an image of ``height`` and ``width`` to."""
        short = resize_side(self.test_res, self.crop_pct)
        long = int(short * max(height, width) / min(height, width))
        return (short, long) if width <= height else (long, short)

    def resized(self, image: np.ndarray) -> Image.Image:
        """Resize (H, W, 3) uint8 to :meth:`resized_size`, before the crop."""
        target_size = self.resized_size(*image.shape[:2])
        picture = Image.fromarray(image)
        if picture.size == target_size:
            return picture
        return picture.resize(target_size, RESAMPLING[self.interpolation])

    def cropped(self, picture: Image.Image, shift: int = 0) -> np.ndarray:
        """Crop the centre, or ``shift`` px to the right of it: (test_res, test_res, 3) uint8."""
        res = self.test_res
        left = round((picture.width - res) / 2) + shift
        top = round((picture.height - res) / 2)
        # A crop ratio over 1 would reach outside, where PIL pads with black as torchvision does.
        return np.asarray(picture.crop((left, top, left + res, top + res)))
