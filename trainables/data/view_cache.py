"""Render images as a net is shown them, once per node, into memory-mapped files of the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trainables.data.cache import (
    VIEWS,
    SpaceRequest,
    make_room,
    write_errors,
)
from trainables.data.image_set import ImageSet, SplitImages
from trainables.data.locks import held_file, reserved
from trainables.storage.hashing import content_hash
from trainables.storage.replacing import replacing
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.finetune_augmentation import draw_mild, mild_transform

Render = Callable[[int, np.ndarray], np.ndarray]  # position and image -> (R, R, 3) uint8


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
        """Render a split, or its first ``most`` images, in a test transform.

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
        """Render images that need not be a split of the set; see :meth:`view`.

        Args:
            images_digest: names the images.
        """
        count = min(len(images), most or len(images))
        key = ("view 2", images_digest, transform, count)
        return self._render(images, transform, lambda _, image: transform(image), count, key)

    def mild_view(
        self, split: str, transform: EvalTransform, *, number: int, hflip: float, seed: int
    ) -> np.ndarray:
        """Render view ``number`` of a split in the mild augmentation.

        Returns:
            (N, R, R, 3) uint8, read-only.
        """
        images = self.images.split(split)
        draws = draw_mild(images.sizes, transform, hflip, np.random.default_rng((seed, number)))

        def render(i: int, image: np.ndarray) -> np.ndarray:
            return mild_transform(image, transform, draws[i])

        key = ("mild 1", self.images.digest, split, transform, number, hflip, seed)
        return self._render(images, transform, render, len(images), key)

    def _render(
        self,
        images: SplitImages,
        transform: EvalTransform,
        render: Render,
        count: int,
        key: tuple[Any, ...],
    ) -> np.ndarray:
        path = self.cache / VIEWS / f"{transform.test_res}-{content_hash(*key)}.npy"
        return render_once(
            images, path, transform.test_res, render, count=count, threads=self.threads
        )


def render_once(
    images: SplitImages, path: Path, test_res: int, render: Render, *, count: int, threads: int
) -> np.ndarray:
    """Render the first ``count`` images, unless a process of this node has done so already.

    Args:
        path: the file among the cache's views; its name stands for all that the pixels depend on.
        render: makes one image of ``test_res`` px; called from ``threads`` threads.

    Returns:
        (count, R, R, 3) uint8, memory-mapped, read-only. The file stays for as long as it is
        mapped.

    Raises:
        UserError: the cache has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cache, shape = path.parents[1], (count, test_res, test_res, 3)
    request = SpaceRequest(what=f"{count} images at {test_res} px", smaller="smaller resolutions")
    while (view := held_file(path)) is None:
        with FileLock(f"{path}.lock"):
            if (view := held_file(path)) is not None:
                break
            make_room(cache, math.prod(shape), request)
            with write_errors(cache, request.smaller), replacing(path) as temporary:
                pixels = np.lib.format.open_memmap(temporary, "w+", dtype=np.uint8, shape=shape)
                with reserved(temporary):
                    _render_all(pixels, images, render, threads)
    return view


def _render_all(pixels: np.memmap, images: SplitImages, render: Render, threads: int) -> None:
    def render_into(i: int) -> None:
        pixels[i] = render(i, images[i])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(render_into, range(len(pixels))):
            pass
    pixels.flush()
