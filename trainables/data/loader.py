"""Load batches of training images: crop them by threads ahead of use, normalise on the device.

An image is mirrored as it is written into its batch: that takes less than a tenth of the time of
its crop, and none of the device's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch

from trainables.data.image_set import SplitImages
from trainables.models import host_memory
from trainables.models.variants import Preprocessing
from trainables.transforms.augmentation import Augmentation, random_resized_crops
from trainables.transforms.fast_resize import Kernel, kernel_here, resize_into

BATCHES_AHEAD_PER_THREAD = 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainBatch:
    """A batch of cropped images, some of them mirrored, in memory that its device copies from."""

    pixels: torch.Tensor  # (B, R, R, 3) uint8 on the CPU
    labels: torch.Tensor  # (B,) int64 on the CPU


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
    kernel: Kernel | None = None,
    device: torch.device = CPU,
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
        kernel: that resizes; None: this machine's.
        device: that batches are for.
    """
    if drawn is None:
        drawn = np.arange(len(images))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(drawn))
    boxes = random_resized_crops(images.sizes[drawn], augmentation, rng)
    flips = rng.random(len(drawn)) < augmentation.hflip
    kernel = kernel or kernel_here()
    batches = max(1, len(drawn) // batch_size)

    def make_batch(b: int) -> TrainBatch:
        chosen = order[b * batch_size : (b + 1) * batch_size][rank::world]
        shape = (len(chosen), train_res, train_res, 3)
        pixels = host_memory.empty(shape, torch.uint8, device)
        for out, draw in zip(pixels.numpy(), chosen, strict=True):
            top, left, height, width = boxes[draw]
            region = images[drawn[draw]][top : top + height, left : left + width]
            resize_into(out, region, interpolation, kernel, mirrored=bool(flips[draw]))
        return TrainBatch(pixels, host_memory.filled(images.labels[drawn[chosen]], device))

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
    pixels: torch.Tensor, preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """Move (B, R, R, 3) uint8 to the device and normalise: (B, 3, R, R) float32, channels last.

    Nothing waits for the copy of a tensor that :mod:`.host_memory` has made for the device.
    """
    count, height, width, channels = pixels.shape
    mean, std = _rows(preprocessing, width, device)
    # By rows of pixels, as they lie in memory: channel by channel a CPU takes twice as long.
    x = pixels.to(device, non_blocking=True).view(count, height, -1).float()
    return x.sub_(mean).div_(std).view(count, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _rows(
    preprocessing: Preprocessing, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of a row's values, in levels of 255: (3 * width,) float32."""
    return (
        torch.tensor(preprocessing.mean * width, device=device) * 255,
        torch.tensor(preprocessing.std * width, device=device) * 255,
    )
