"""Resize an image and crop its centre, without building what is cropped off a very long one.

A finished model brings this module along: it imports numpy and Pillow alone.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

# A larger resized picture is not built: 1 x 20,000 px at 288 px would be 288 x 5,760,000. Below it,
# pixels are those of resizing the whole, to the last bit.
MAX_RESIZED_PIXELS = 1 << 24
_REACH = 3  # source px that bicubic looks beyond a box when it enlarges, and one more


def resized_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Compute width and height, px, of an image whose short side is resized to ``short`` px."""
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if width <= height else (long, short)


def is_too_long(size: tuple[int, int]) -> bool:
    """Whether a resized picture of that width and height is too large to be built."""
    return size[0] * size[1] > MAX_RESIZED_PIXELS


def resized(
    picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling
) -> Image.Image:
    """Resize to a width and height, px."""
    return picture if picture.size == size else picture.resize(size, resampling)


def crop_centre(picture: Image.Image, res: int, shift: int = 0) -> np.ndarray:
    """Crop the centre, or ``shift`` px to the right of it: (res, res, 3) uint8."""
    left, top = _corner(picture.size, res, shift)
    # A crop larger than the picture reaches outside, where PIL pads with black as torchvision does.
    return np.asarray(picture.crop((left, top, left + res, top + res)))


def resize_and_crop(
    picture: Image.Image, short: int, res: int, resampling: Image.Resampling, shift: int = 0
) -> np.ndarray:
    """Resize the short side to ``short`` px, then crop: (res, res, 3) uint8.

    Of a picture that would be too large only what is cropped is resized; its pixels are those of
    the whole but for rounding.
    """
    size = resized_size(picture.height, picture.width, short)
    if not is_too_long(size):
        return crop_centre(resized(picture, size, resampling), res, shift)
    left, top = _corner(size, res, shift)
    upright = picture.height >= picture.width
    start = top if upright else left
    scale = picture.height / size[1] if upright else picture.width / size[0]
    low, high = start * scale, (start + res) * scale
    # Pillow keeps a box in single precision: it is exact enough near zero only.
    reach = math.ceil(_REACH * max(1.0, scale))
    first = max(0, math.floor(low) - reach)
    last = min(max(picture.size), math.ceil(high) + reach)
    if upright:
        part = picture.crop((0, first, picture.width, last))
        box = (0.0, low - first, float(picture.width), high - first)
        band = part.resize((short, res), resampling, box=box)
        return np.asarray(band.crop((left, 0, left + res, res)))
    part = picture.crop((first, 0, last, picture.height))
    box = (low - first, 0.0, high - first, float(picture.height))
    band = part.resize((res, short), resampling, box=box)
    return np.asarray(band.crop((0, top, res, top + res)))


def _corner(size: tuple[int, int], res: int, shift: int) -> tuple[int, int]:
    width, height = size
    return round((width - res) / 2) + shift, round((height - res) / 2)
