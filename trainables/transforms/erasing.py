"""Erase a box of images, as timm does: random erasing (Zhong et al., arXiv:1708.04896).

Boxes are drawn as timm's RandomErasing draws them; they are filled as by its mode "pixel", the one
that timm trains with: noise of the mean and deviation that pixels are normalised by. timm erases
normalised pixels, here it is bytes: noise beyond black and white is cut off there.
"""

from __future__ import annotations

import numpy as np

TRIES = 10  # boxes that are drawn before an image is left as it is
AREA = (0.02, 1 / 3)  # share of the image's area
LOG_RATIO = (float(np.log(0.3)), float(-np.log(0.3)))  # of height over width


def draw_boxes(count: int, side: int, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the box of each image that is erased.

    Args:
        side: of the images, px.

    Returns:
        (count, 4) int64: top, left, height, width, px; a height of 0 where an image stays whole.
    """
    erased = rng.random(count) < probability
    area = rng.uniform(*AREA, (count, TRIES)) * side**2
    ratio = np.exp(rng.uniform(*LOG_RATIO, (count, TRIES)))
    height = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    width = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width < side) & (height < side)
    rows, first_fit = np.arange(count), fits.argmax(axis=1)
    found = erased & fits.any(axis=1)
    height, width = (np.where(found, edge[rows, first_fit], 0) for edge in (height, width))
    top, left = (rng.integers(0, side - edge + 1) for edge in (height, width))
    return np.stack([top, left, height, width], axis=1)


def erase(
    image: np.ndarray,
    box: np.ndarray,
    rng: np.random.Generator,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """Fill a box of an image with noise, in place.

    Args:
        image: (R, R, 3) uint8.
        box: (4,) as :func:`draw_boxes` draws it.
        mean, std: of the noise, by channel, in shares of white.
    """
    top, left, height, width = box.tolist()
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    noise *= np.array(std, dtype=np.float32)
    noise += np.array(mean, dtype=np.float32)
    noise *= 255
    image[top : top + height, left : left + width] = np.rint(noise.clip(0, 255))
