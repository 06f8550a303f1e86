"""Where trunks and cells are worked on: a node's images, its cache, its threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.imageset import ImageSet, SplitImages
from trainables.keys import digest
from trainables.mild import draws, mild_transform
from trainables.transforms import EvalTransform, Render, kept_view


@dataclass(frozen=True, kw_only=True)
class Workplace:
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
        drawn = draws(images.sizes, transform, hflip, np.random.default_rng((seed, number)))

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
        path = self.cache / "views" / f"{transform.test_res}-{digest(*named)}.npy"
        return kept_view(
            images, path, transform.test_res, render, count=count, threads=self.threads
        )
