"""Load batches of training images: crop them by threads ahead of use, normalise on the device."""

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

BATCHES_AHEAD_PER_THREAD = 2


@dataclass(frozen=True)
class TrainBatch:
    """A batch of cropped images."""

    pixels: np.ndarray  # (B, R, R, 3) uint8
    labels: np.ndarray  # (B,) int64
    flip: np.ndarray  # (B,) bool: images to mirror on the device


def train_batches(
    images: SplitImages,
    train_res: int,
    *,
    batch_size: int,
    augmentation: Augmentation,
    interpolation: str,
    seed: Sequence[int],
    threads: int,
    drawn: np.ndarray | None = None,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[TrainBatch]:
    """Give the batches of one epoch in a random order, cropped a few batches ahead.

    The last batch is dropped where it is not full (batch norm works badly on few images), unless it
    is the only one.

    Args:
        train_res: px.
        interpolation: a key of RESAMPLING.
        seed: all random choices are drawn from it beforehand and do not depend on ``threads``.
        threads: that crop images.
        drawn: (N,) int64 positions of the images of the epoch; one that is there several times is
            cropped anew each time. None: every image once.
        start: the first batch to give; those before are not cropped.
        rank, world: this worker's number and the number of workers; it is given every
            ``world``-th image of a batch.
    """
    if drawn is None:
        drawn = np.arange(len(images))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(drawn))
    boxes = random_resized_crops(images.sizes[drawn], augmentation, rng)
    flips = rng.random(len(drawn)) < augmentation.hflip
    resampling = RESAMPLING[interpolation]
    batches = max(1, len(drawn) // batch_size)

    def crop(draw: int) -> np.ndarray:
        top, left, height, width = boxes[draw]
        region = Image.fromarray(images[drawn[draw]][top : top + height, left : left + width])
        return np.asarray(region.resize((train_res, train_res), resampling))

    def make_batch(b: int) -> TrainBatch:
        chosen = order[b * batch_size : (b + 1) * batch_size][rank::world]
        pixels = np.stack([crop(draw) for draw in chosen])
        return TrainBatch(pixels, images.labels[drawn[chosen]], flips[chosen])

    pool, numbers = ThreadPoolExecutor(threads), iter(range(start, batches))
    try:
        first = islice(numbers, BATCHES_AHEAD_PER_THREAD * threads)
        pending = deque(pool.submit(make_batch, b) for b in first)
        while pending:
            batch = pending.popleft().result()
            pending.extend(pool.submit(make_batch, b) for b in islice(numbers, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def normalize_on_device(
    pixels: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """Move (B, R, R, 3) uint8 to the device and normalise: (B, 3, R, R) float32, channels last."""
    x = torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1) * 255
    return (x - mean) / std
