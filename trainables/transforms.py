"""Pixels in: the test transform, made once and kept; the train transform, drawn anew each epoch.

Everything stays uint8 until it is on the device (:func:`to_device`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from trainables.cache import Need, held_file, make_room, reserved, write_errors
from trainables.imageset import SplitImages
from trainables.resolution import resize_side
from trainables.store import replacing
from trainables.variants import Preprocessing

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


Render = Callable[[int, np.ndarray], np.ndarray]  # position and image -> (R, R, 3) uint8


def kept_view(
    images: SplitImages, path: Path, test_res: int, render: Render, *, count: int, threads: int
) -> np.ndarray:
    """The first ``count`` images, rendered: (count, R, R, 3) uint8, memory-mapped, read-only.

    Made once a node, whatever the number of trunks that look at it: ``path`` names all that it
    depends on, in the views of a cache. It is not dropped there for as long as it is mapped.

    Raises:
        UserError: the cache has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cache, shape = path.parents[1], (count, test_res, test_res, 3)
    need = Need(what=f"{count} images at {test_res} px", smaller="smaller resolutions")
    while (found := held_file(path)) is None:
        with FileLock(f"{path}.lock"):
            if (found := held_file(path)) is not None:
                break
            make_room(cache, math.prod(shape), need)
            with write_errors(cache, need.smaller), replacing(path) as temporary:
                out = np.lib.format.open_memmap(temporary, "w+", dtype=np.uint8, shape=shape)
                with reserved(temporary):
                    _fill(out, images, render, threads)
    return found


def _fill(out: np.memmap, images: SplitImages, render: Render, threads: int) -> None:
    def fill(i: int) -> None:
        out[i] = render(i, images[i])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(len(out))):
            pass
    out.flush()


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


def to_device(
    pixels: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """(B, R, R, 3) uint8 -> (B, 3, R, R) float32, normalised on the device, channels last."""
    x = torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1) * 255
    return (x - mean) / std
