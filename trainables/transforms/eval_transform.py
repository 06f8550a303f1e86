"""Resize and crop images as in testing: timm's evaluation transform, in uint8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainables.transforms import centre_crop
from trainables.transforms.resolution import resize_side

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Resize the short side, then crop the centre: timm's evaluation transform, pixel for pixel.

    It takes images as they are stored, larger ones reduced to ``cache_side`` before. Of a picture
    that would be resized to more than 16 megapixels only the crop is: the same but for rounding.
    """

    test_res: int  # px
    crop_pct: float  # side of the centre crop over the resized short side
    interpolation: str  # a key of RESAMPLING

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop: (H, W, 3) uint8 -> (test_res, test_res, 3) uint8."""
        return self.resized_crop(Image.fromarray(image))

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute the width and height, px, to resize an image of ``height`` and ``width`` to."""
        return centre_crop.resized_size(height, width, self._short)

    def resized(self, image: np.ndarray) -> Image.Image:
        """Resize (H, W, 3) uint8 to :meth:`resized_size`, before the crop."""
        size = self.resized_size(*image.shape[:2])
        return centre_crop.resized(Image.fromarray(image), size, RESAMPLING[self.interpolation])

    def cropped(self, picture: Image.Image, shift: int = 0) -> np.ndarray:
        """Crop the centre, or ``shift`` px to the right of it: (test_res, test_res, 3) uint8."""
        return centre_crop.crop_centre(picture, self.test_res, shift)

    def resized_crop(self, picture: Image.Image, shift: int = 0) -> np.ndarray:
        """Resize and crop a picture in one: (test_res, test_res, 3) uint8."""
        resampling = RESAMPLING[self.interpolation]
        return centre_crop.resize_and_crop(picture, self._short, self.test_res, resampling, shift)

    @property
    def _short(self) -> int:
        return resize_side(self.test_res, self.crop_pct)
