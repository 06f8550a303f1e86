"""Where trunks and cells are worked on: a node's images, its cache, its threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.decode import ImageSet
from trainables.resolution import TEST_CROP_PCT
from trainables.transforms import test_view


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """One node's share of what every trial needs."""

    images: ImageSet
    cache: Path  # node-local
    threads: int

    def view(self, split: str, test_res: int, interpolation: str) -> np.ndarray:
        """A split in the test transform: (N, R, R, 3) uint8, made once a node."""
        return test_view(
            self.images.split(split),
            self.images.digest,
            split,
            test_res,
            crop_pct=TEST_CROP_PCT,
            interpolation=interpolation,
            cache=self.cache,
            threads=self.threads,
        )
