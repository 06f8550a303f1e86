"""The training augmentation: RandomResizedCrop and flip, drawn for all images at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """RandomResizedCrop and horizontal flip; ``crop_scale`` in shares of the area."""

    crop_scale: tuple[float, float] = (0.25, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5


def random_resized_crops(
    sizes: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """One box an image, distributed as torchvision's RandomResizedCrop draws them.

    Args:
        sizes: (N, 2) height and width.

    Returns:
        (N, 4) int64: top, left, height, width.
    """
    height, width = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
    n, tries = len(sizes), 10
    area = (height * width)[:, None] * rng.uniform(*augmentation.crop_scale, (n, tries))
    log_ratio = np.log(augmentation.crop_ratio)
    aspect = np.exp(rng.uniform(log_ratio[0], log_ratio[1], (n, tries)))
    box_w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    box_h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (box_w > 0) & (box_w <= width[:, None]) & (box_h > 0) & (box_h <= height[:, None])
    first = fits.argmax(axis=1)
    rows = np.arange(n)
    box_w, box_h = box_w[rows, first], box_h[rows, first]
    # No try fitted: the largest centred box within the ratios.
    in_ratio = width / height
    low, high = augmentation.crop_ratio
    fall_w = np.where(in_ratio > high, np.rint(height * high), width).astype(np.int64)
    fall_h = np.where(in_ratio < low, np.rint(width / low), height).astype(np.int64)
    found = fits.any(axis=1)
    box_w, box_h = np.where(found, box_w, fall_w), np.where(found, box_h, fall_h)
    top = np.where(found, rng.integers(0, height - box_h + 1), (height - box_h) // 2)
    left = np.where(found, rng.integers(0, width - box_w + 1), (width - box_w) // 2)
    return np.stack([top, left, box_h, box_w], axis=1)
