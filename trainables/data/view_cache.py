"""Render images as a net is shown them: when they are read, or once per node into the cache.

What is read once, or is large, is a :class:`StreamedView`: it takes memory for a few batches and
no disk. What several cells or trunks are shown is kept, in a memory-mapped file of the cache. Both
have the same pixels, made here in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from trainables.data.cache import (
    VIEWS,
    NoRoomError,
    SpaceRequest,
    make_room,
    room_in,
    write_errors,
)
from trainables.data.image_set import ImageSet, SplitImages
from trainables.data.locks import held_file, reserved
from trainables.models.transfer import host_memory
from trainables.storage.hashing import content_hash
from trainables.storage.replacing import replacing
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.fast_resize import Kernel, eval_view, kernel_here
from trainables.transforms.finetune_augmentation import draw_mild, mild_transform

Render = Callable[[int, np.ndarray], np.ndarray]  # position and image -> (R, R, 3) uint8

CPU = torch.device("cpu")
BATCHES_AHEAD = 2  # that are rendered while one is used
IMAGES_A_WRITE = 64  # that are rendered at a time into a file
# A larger view of train is rendered each time that it is read. What is kept spares each further
# trunk half of its pass of Lite0 at 64 px on a CPU, and an eighth at 160 px (photographs of 500 x
# 375 px); but pixels are what grows fastest with a set.
MAX_KEPT_BYTES = 4 * 10**9


@dataclass(frozen=True, kw_only=True)
class StreamedView:
    """Images as a net is shown them, rendered by threads each time that they are read."""

    images: SplitImages
    test_res: int  # px
    render: Render
    first: int  # position of the first image
    count: int
    threads: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, R, R, 3), as of an array."""
        return self.count, self.test_res, self.test_res, 3

    def __len__(self) -> int:
        return self.count

    def part(self, start: int, stop: int) -> StreamedView:
        """Take the images from ``start`` up to ``stop`` of this view, as a view of its own."""
        stop = min(stop, self.count)
        return replace(self, first=self.first + start, count=stop - start)

    def batches(self, batch_size: int, device: torch.device = CPU) -> Iterator[torch.Tensor]:
        """Render all images in order, a few batches ahead of use.

        Whatever their number, no more than ``BATCHES_AHEAD`` batches wait.

        Args:
            device: that batches are for: they are rendered where it copies them from.

        Yields:
            (B, R, R, 3) uint8 on the CPU; the last may be smaller.
        """

        def wanted(start: int) -> host_memory.Wanted:
            count, first = min(batch_size, self.count - start), self.first + start
            shares = (range(k, count, self.threads) for k in range(self.threads))
            work = [partial(self._render_into, first=first, share=share) for share in shares]
            return (count, *self.shape[1:]), torch.uint8, work

        batches = map(wanted, range(0, self.count, batch_size))
        return host_memory.filled_by_threads(
            batches, device, threads=self.threads, ahead=BATCHES_AHEAD
        )

    def _render_into(self, pixels: np.ndarray, first: int, share: range) -> None:
        for i in share:
            pixels[i] = self.render(first + i, self.images[first + i])


@dataclass(frozen=True, kw_only=True)
class ViewCache:
    """The views of an image set on this node: a split in the test transform or augmented mildly."""

    images: ImageSet
    cache: Path  # node-local
    threads: int

    @property
    def scratch(self) -> Path:
        """The folder for files that a pass over a view needs while it runs."""
        return self.cache / "scratch"

    def view(self, split: str, transform: EvalTransform, *, most: int | None = None) -> np.ndarray:
        """Render a split, or its first ``most`` images, in a test transform, and keep it.

        Returns:
            (N, R, R, 3) uint8, read-only.
        """
        images = self.images.split(split)
        return self.view_of(images, f"{self.images.digest} {split}", transform, most=most)

    def view_of(
        self,
        images: SplitImages,
        images_digest: str,
        transform: EvalTransform,
        *,
        most: int | None = None,
    ) -> np.ndarray:
        """Render images that need not be a split of the set, and keep them; see :meth:`view`.

        Args:
            images_digest: names the images.
        """
        view = self._in_test_transform(images, transform, most, "pillow")
        return self._kept(view, ("view 2", images_digest, transform, len(view)))

    def train_view(self, transform: EvalTransform, *, most: int | None = None) -> StreamedView:
        """Give train, or its first ``most`` images, in a test transform, without keeping it.

        It is resized by the kernel of training: heads are fitted on it, nothing is scored.
        """
        return self._in_test_transform(self.images.split("train"), transform, most, kernel_here())

    def train_view_kept_if_small(
        self, transform: EvalTransform, *, beside: int = 0
    ) -> np.ndarray | StreamedView:
        """Give what :meth:`train_view` does, kept where it is small and there is room.

        Small is up to ``MAX_KEPT_BYTES``. It is kept for speed alone, so that no pass is refused
        for it.

        Args:
            beside: bytes that the disk is to have room for while it is read.
        """
        view = self.train_view(transform)
        size = math.prod(view.shape)
        if size > MAX_KEPT_BYTES or room_in(self.cache).disk < size + beside:
            return view
        key = ("train view 1", self.images.digest, transform, len(view), kernel_here())
        with suppress(NoRoomError):
            return self._kept(view, key)
        return view

    def make_room_for_maps(self, needed: int, images: int) -> None:
        """Drop views that nobody reads, as far as maps of so many images need their room.

        Args:
            needed: bytes.

        Raises:
            NoRoomError: the disk lacks room without them too.
        """
        request = SpaceRequest(
            what=f"maps of {images:,} images", smaller="lower resolutions, or a smaller `map_gb`"
        )
        self.cache.mkdir(parents=True, exist_ok=True)
        make_room(self.cache, needed, request, passing=True)

    def mild_view(
        self, split: str, transform: EvalTransform, *, number: int, hflip: float, seed: int
    ) -> StreamedView:
        """Give view ``number`` of a split in the mild augmentation, without keeping it."""
        images = self.images.split(split)
        draws = draw_mild(images.sizes, transform, hflip, np.random.default_rng((seed, number)))

        def render(i: int, image: np.ndarray) -> np.ndarray:
            return mild_transform(image, transform, draws[i])

        return self._streamed(images, transform, render, len(images))

    def _in_test_transform(
        self, images: SplitImages, transform: EvalTransform, most: int | None, kernel: Kernel
    ) -> StreamedView:
        def render(_: int, image: np.ndarray) -> np.ndarray:
            return eval_view(image, transform, kernel)

        count = min(len(images), most or len(images))
        return self._streamed(images, transform, render, count)

    def _streamed(
        self, images: SplitImages, transform: EvalTransform, render: Render, count: int
    ) -> StreamedView:
        return StreamedView(
            images=images,
            test_res=transform.test_res,
            render=render,
            first=0,
            count=count,
            threads=self.threads,
        )

    def _kept(self, view: StreamedView, key: tuple[Any, ...]) -> np.ndarray:
        return render_once(view, self.cache / VIEWS / f"{view.test_res}-{content_hash(*key)}.npy")


def render_once(view: StreamedView, path: Path) -> np.ndarray:
    """Render a view into a file, unless a process of this node has done so already.

    Args:
        path: the file among the cache's views; its name stands for all that the pixels depend on.

    Returns:
        (N, R, R, 3) uint8, memory-mapped, read-only. The file stays for as long as it is mapped.

    Raises:
        UserError: the cache has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cache, what = path.parents[1], f"{len(view)} images at {view.test_res} px"
    request = SpaceRequest(what=what, smaller="smaller resolutions")
    while (kept := held_file(path)) is None:
        with FileLock(f"{path}.lock"):
            if (kept := held_file(path)) is not None:
                break
            make_room(cache, math.prod(view.shape), request)
            with write_errors(cache, request.smaller), replacing(path) as temporary:
                pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, view.shape)
                with reserved(temporary):
                    _render_all(pixels, view)
    return kept


def _render_all(pixels: np.memmap, view: StreamedView) -> None:
    start = 0
    for batch in view.batches(IMAGES_A_WRITE):
        pixels[start : start + len(batch)] = batch.numpy()
        start += len(batch)
    pixels.flush()
