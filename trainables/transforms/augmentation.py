"""Say how images are augmented in training, and draw the crops, all at once, as torchvision does.

Imports no torch: the command line takes its defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

AutoAugment = Literal["none", "rand", "trivial"]
CROP_TRIES = 10  # boxes that torchvision's RandomResizedCrop draws before it falls back


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """RandomResizedCrop and horizontal flip; ``crop_scale`` in shares of the area."""

    crop_scale: tuple[float, float] = (0.25, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height
    hflip: float = 0.5  # probability


@dataclass(frozen=True, kw_only=True)
class Distortions:
    """What crops go through after the flip, in this order; by default they are left as they are."""

    auto_augment: AutoAugment = "none"  # RandAugment, TrivialAugment
    mixup: float = 0.0  # parameter of the beta distribution of shares; 0: none
    cutmix: float = 0.0  # the same; with mixup, each batch is one or the other
    random_erasing: float = 0.0  # probability

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


def random_resized_crops(
    sizes: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Draw a crop box for each image, distributed as torchvision's RandomResizedCrop draws them.

    Args:
        sizes: (N, 2) height and width, px.

    Returns:
        (N, 4) int64: top, left, height, width, px.
    """
    height, width = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
    count = len(sizes)
    area = (height * width)[:, None] * rng.uniform(*augmentation.crop_scale, (count, CROP_TRIES))
    log_ratio = np.log(augmentation.crop_ratio)
    aspect = np.exp(rng.uniform(log_ratio[0], log_ratio[1], (count, CROP_TRIES)))
    box_w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    box_h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (box_w > 0) & (box_w <= width[:, None]) & (box_h > 0) & (box_h <= height[:, None])
    rows, first_fit = np.arange(count), fits.argmax(axis=1)
    box_w, box_h = box_w[rows, first_fit], box_h[rows, first_fit]
    # Where no try fits, the box is the largest centred one within the ratios.
    image_ratio = width / height
    min_ratio, max_ratio = augmentation.crop_ratio
    fallback_w = np.where(image_ratio > max_ratio, np.rint(height * max_ratio), width)
    fallback_h = np.where(image_ratio < min_ratio, np.rint(width / min_ratio), height)
    any_fits = fits.any(axis=1)
    box_w = np.where(any_fits, box_w, fallback_w.astype(np.int64))
    box_h = np.where(any_fits, box_h, fallback_h.astype(np.int64))
    top = np.where(any_fits, rng.integers(0, height - box_h + 1), (height - box_h) // 2)
    left = np.where(any_fits, rng.integers(0, width - box_w + 1), (width - box_w) // 2)
    return np.stack([top, left, box_h, box_w], axis=1)
