"""Load batches of training images: crop them by threads ahead of use, normalise on the device.

An image is mirrored as it is written into its batch: that takes less than a tenth of the time of
its crop, and none of the device's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from trainables.data.image_set import SplitImages
from trainables.models.transfer import host_memory
from trainables.models.transfer.ahead import made_ahead
from trainables.models.transfer.copy_stream import copied_ahead
from trainables.models.variants import Preprocessing
from trainables.transforms.augmentation import Augmentation, Distortions, random_resized_crops
from trainables.transforms.auto_augment import DrawnOperations
from trainables.transforms.erasing import draw_boxes, erase
from trainables.transforms.fast_resize import Kernel, kernel_here, resize_into
from trainables.transforms.mixing import draw_mix, mix_into

BATCHES_AHEAD_PER_THREAD = 2
CPU = torch.device("cpu")
UNDISTORTED = Distortions()


# Set these draws apart from those of order, crops and flips, and from one another's.
_MIX_SALT, _ERASE_SALT, _AUGMENT_SALT = 0x313C, 0xE8A5, 0xA06A


@dataclass(frozen=True)
class MixedIn:
    """What the images of a batch are mixed with: its own images, from the last to the first."""

    labels: torch.Tensor  # (B,) int64 on the CPU
    share: float  # of the label


@dataclass(frozen=True)
class TrainBatch:
    """A batch of cropped images, some of them mirrored, in memory that its device copies from."""

    pixels: torch.Tensor  # (B, R, R, 3) uint8 on the CPU
    labels: torch.Tensor  # (B,) int64 on the CPU
    mixed_in: MixedIn | None = None
    copies: tuple[torch.Tensor, ...] | None = None
    """Of these tensors, on the batch's device, where they were made before it is used."""

    @property
    def targets(self) -> list[tuple[torch.Tensor, float]]:
        """The labels, and what each image has of them: one or two, whose shares sum to 1."""
        if self.mixed_in is None:
            return [(self.labels, 1.0)]
        share = self.mixed_in.share
        return [(self.labels, 1 - share), (self.mixed_in.labels, share)]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The pixels, and the labels of each target: on the device, if they are there already."""
        return self.copies or (self.pixels, *(labels for labels, _ in self.targets))


def copied_batches(batches: Iterator[TrainBatch], device: torch.device) -> Iterator[TrainBatch]:
    """Give batches with their copies on the device, where these are made ahead of use."""
    for batch, copies in copied_ahead(batches, lambda batch: batch.tensors, device):
        yield replace(batch, copies=tuple(copies))


def train_batches(
    images: SplitImages,
    train_res: int,
    *,
    batch_size: int,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    seed: Sequence[int],
    threads: int,
    distortions: Distortions = UNDISTORTED,
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
        seed: all random choices are drawn from it beforehand and do not depend on ``threads``.
        threads: that crop images.
        drawn: (N,) int64 positions of the images of the epoch; one that is there several times is
            cropped anew each time. None: every image once.
        start: the first batch to give; those before are not cropped.
        rank, world: this worker's number and the number of workers; it is given every
            ``world``-th image of a batch. Where images are mixed, it crops those too that its own
            are mixed with.
        kernel: that resizes; None: this machine's.
        device: that batches are for.
    """
    if drawn is None:
        drawn = np.arange(len(images))
    crops = _Crops(
        images,
        train_res,
        drawn=drawn,
        augmentation=augmentation,
        distortions=distortions,
        preprocessing=preprocessing,
        seed=tuple(seed),
        kernel=kernel or kernel_here(),
    )
    batches = max(1, len(drawn) // batch_size)

    def make_batch(b: int) -> TrainBatch:
        whole = crops.order[b * batch_size : (b + 1) * batch_size]
        own = whole[rank::world]
        labelled = [own, whole[::-1][rank::world]] if distortions.mixes else [own]
        shape = (len(own), train_res, train_res, 3)
        parts = [((len(draws),), torch.int64) for draws in labelled]
        pixels, *labels = host_memory.packed([(shape, torch.uint8), *parts], device)
        for out, draws in zip(labels, labelled, strict=True):
            out.numpy()[:] = images.labels[drawn[draws]]
        mixed_in = None
        if distortions.mixes:
            mixed_in = MixedIn(labels[1], crops.mix(pixels.numpy(), b, *labelled))
        else:
            crops.render(pixels.numpy(), own)
        crops.erase(pixels.numpy(), own)
        return TrainBatch(pixels, labels[0], mixed_in)

    pool = ThreadPoolExecutor(threads)
    begun = (pool.submit(make_batch, b).result for b in range(start, batches))
    try:
        yield from made_ahead(begun, ahead=BATCHES_AHEAD_PER_THREAD * threads - 1)
    finally:
        pool.shutdown(cancel_futures=True)


class _Crops:
    """The crops of an epoch; all that is random about one goes by its place among those drawn."""

    def __init__(
        self,
        images: SplitImages,
        side: int,
        *,
        drawn: np.ndarray,
        augmentation: Augmentation,
        distortions: Distortions,
        preprocessing: Preprocessing,
        seed: tuple[int, ...],
        kernel: Kernel,
    ):
        rng = np.random.default_rng(seed)
        self.order = rng.permutation(len(drawn))
        self._boxes = random_resized_crops(images.sizes[drawn], augmentation, rng)
        self._flips = rng.random(len(drawn)) < augmentation.hflip
        self._operations: DrawnOperations | None = None
        if distortions.auto_augment != "none":
            rng = np.random.default_rng((*seed, _AUGMENT_SALT))
            self._operations = DrawnOperations(distortions.auto_augment, len(drawn), side, rng)
        self._erased: np.ndarray | None = None
        if distortions.random_erasing:
            rng = np.random.default_rng((*seed, _ERASE_SALT))
            self._erased = draw_boxes(len(drawn), side, distortions.random_erasing, rng)
        self._images, self._drawn, self._side, self._seed = images, drawn, side, seed
        self._distortions, self._preprocessing, self._kernel = distortions, preprocessing, kernel

    def render(self, out: np.ndarray, draws: np.ndarray) -> None:
        """Crop, flip and augment: ``out`` (n, R, R, 3) becomes the images of those draws (n,)."""
        for pixels, draw in zip(out, draws, strict=True):
            top, left, height, width = self._boxes[draw]
            image = self._images[self._drawn[draw]][top : top + height, left : left + width]
            mirrored = bool(self._flips[draw])
            interpolation = self._preprocessing.interpolation
            resize_into(pixels, image, interpolation, self._kernel, mirrored=mirrored)
            if self._operations is not None:
                self._operations.apply(pixels, draw)

    def mix(self, out: np.ndarray, batch: int, draws: np.ndarray, partners: np.ndarray) -> float:
        """Render images and their partners, and mix them; return the share of the partners."""
        needed, places = np.unique(np.concatenate([draws, partners]), return_inverse=True)
        rendered = np.empty((len(needed), *out.shape[1:]), np.uint8)
        self.render(rendered, needed)
        rng = np.random.default_rng((*self._seed, _MIX_SALT, batch))
        mix = draw_mix(self._distortions.mixup, self._distortions.cutmix, self._side, rng)
        for pixels, own, partner in zip(out, *np.split(places, 2), strict=True):
            mix_into(pixels, rendered[own], rendered[partner], mix)
        return 1 - mix.share

    def erase(self, out: np.ndarray, draws: np.ndarray) -> None:
        """Erase the boxes of those draws, if any are to be."""
        if self._erased is None:
            return
        mean, std = self._preprocessing.mean, self._preprocessing.std
        for pixels, draw in zip(out, draws.tolist(), strict=True):
            if self._erased[draw].any():
                rng = np.random.default_rng((*self._seed, _ERASE_SALT, 1 + draw))
                erase(pixels, self._erased[draw], rng, mean=mean, std=std)


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
