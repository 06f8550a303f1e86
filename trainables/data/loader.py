"""Batches of training images: cropped by threads ahead of use, normalised on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from trainables.data.image_set import SplitImages
from trainables.models.variants import Preprocessing
from trainables.transforms.augmentation import Augmentation, random_resized_crops
from trainables.transforms.eval_transform import RESAMPLING


@dataclass(frozen=True)
class TrainBatch:
    pixels: np.ndarray  # (B, R, R, 3) uint8
    labels: np.ndarray  # (B,) int64
    flip: np.ndarray  # (B,) bool: to be mirrored, on the device


def train_batches(
    images: SplitImages,
    train_res: int,
    *,
    batch_size: int,
    augmentation: Augmentation,
    interpolation: str,
    seed: Sequence[int],
    threads: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[TrainBatch]:
    """One epoch in a random order, cropped by threads a few batches ahead.

    All that is random is drawn beforehand from ``seed``: the batches do not depend on ``threads``.
    Those before the one to ``start`` with are not cropped, nor what is not of share ``rank`` of
    ``world``, which takes every ``world``-th image of a batch.
    The last batch is dropped where it is not full (batch norm needs company), never the only one.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    boxes = random_resized_crops(images.sizes, augmentation, rng)
    flips = rng.random(len(images)) < augmentation.hflip
    resampling = RESAMPLING[interpolation]
    count = max(1, len(images) // batch_size)

    def crop(i: int) -> np.ndarray:
        top, left, height, width = boxes[i]
        region = Image.fromarray(images[i][top : top + height, left : left + width])
        return np.asarray(region.resize((train_res, train_res), resampling))

    def batch(b: int) -> TrainBatch:
        chosen = order[b * batch_size : (b + 1) * batch_size][rank::world]
        pixels = np.stack([crop(i) for i in chosen])
        return TrainBatch(pixels, images.labels[chosen], flips[chosen])

    pool, to_come = ThreadPoolExecutor(threads), iter(range(start, count))
    try:
        ahead = deque(pool.submit(batch, b) for b in islice(to_come, 2 * threads))
        while ahead:
            ready = ahead.popleft().result()
            ahead.extend(pool.submit(batch, b) for b in islice(to_come, 1))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)


def normalize_on_device(
    pixels: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """(B, R, R, 3) uint8 -> (B, 3, R, R) float32, normalised on the device, channels last."""
    x = torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1) * 255
    return (x - mean) / std
