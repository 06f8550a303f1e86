"""Where trunks and cells are worked on: a node's images, its cache, its threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trainables.data.cache import SpaceRequest, held_file, make_room, reserved, write_errors
from trainables.data.image_set import ImageSet, SplitImages
from trainables.storage.files import replacing
from trainables.storage.hashing import content_hash
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.finetune_augmentation import draw_mild, mild_transform


@dataclass(frozen=True, kw_only=True)
class ViewCache:
    """One node's share of what every trial needs."""

    images: ImageSet
    cache: Path  # node-local
    threads: int

    @property
    def scratch(self) -> Path:
        """Where the maps of a pass lie while they are worked on."""
        return self.cache / "scratch"

    def view(self, split: str, transform: EvalTransform, *, most: int | None = None) -> np.ndarray:
        """A split (its first ``most`` images) in the test transform: (N, R, R, 3) uint8."""
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
        """The same of images that are no split of this sweep's."""
        count = min(len(images), most or len(images))
        named = ("view 2", images_digest, transform, count)
        return self._kept(images, transform, lambda _, image: transform(image), count, named)

    def mild_view(
        self, split: str, transform: EvalTransform, *, number: int, hflip: float, seed: int
    ) -> np.ndarray:
        """View ``number`` of a split in the mild augmentation: (N, R, R, 3) uint8."""
        images = self.images.split(split)
        drawn = draw_mild(images.sizes, transform, hflip, np.random.default_rng((seed, number)))

        def render(i: int, image: np.ndarray) -> np.ndarray:
            return mild_transform(image, transform, drawn[i])

        named = ("mild 1", self.images.digest, split, transform, number, hflip, seed)
        return self._kept(images, transform, render, len(images), named)

    def _kept(
        self,
        images: SplitImages,
        transform: EvalTransform,
        render: Render,
        count: int,
        named: tuple[Any, ...],
    ) -> np.ndarray:
        path = self.cache / "views" / f"{transform.test_res}-{content_hash(*named)}.npy"
        return render_once(
            images, path, transform.test_res, render, count=count, threads=self.threads
        )


Render = Callable[[int, np.ndarray], np.ndarray]  # position and image -> (R, R, 3) uint8


def render_once(
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
    need = SpaceRequest(what=f"{count} images at {test_res} px", smaller="smaller resolutions")
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
