"""Keep the perceptual hash of each image of a decoded set beside its pixels.

A set that was decoded before there were such hashes gets them from its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainables.data.image_set import SplitImages
from trainables.near_duplicates.perceptual_hash import WORDS, perceptual_hash
from trainables.sources.splits import SPLITS
from trainables.storage.replacing import replacing

IMAGES_A_JOB = 256  # that a thread hashes at a time: a job for each would take 2 KB of memory
HASHES = "perceptual-1.npy"  # another number where images would be hashed otherwise


def write_hashes(folder: Path, hashes: Sequence[np.ndarray] | np.ndarray) -> None:
    """Write the hashes of all images of a set, in the order of its index."""
    with replacing(folder / HASHES) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(hashes, dtype=np.uint64).reshape(-1, WORDS))


def hashes_of(images: SplitImages) -> np.ndarray:
    """Read the perceptual hashes of a split's images, in its order: (N, 4) uint64."""
    whole = _read(images.root, len(images.in_set))
    if whole is None:
        whole = _hashed(SplitImages(images.root, SPLITS))
        with suppress(OSError):  # another user's cache: they are made again each time
            write_hashes(images.root, whole)
    split: np.ndarray = whole[images.in_set]
    return split


def _read(root: Path, count: int) -> np.ndarray | None:
    """Read the hashes of a whole set; None where there are none, or they are damaged."""
    try:
        hashes: np.ndarray = np.load(root / HASHES)
    except (OSError, ValueError, EOFError):
        return None
    return hashes if hashes.shape == (count, WORDS) and hashes.dtype == np.uint64 else None


def _hashed(images: SplitImages) -> np.ndarray:
    hashes = np.empty((len(images), WORDS), np.uint64)

    def hash_from(start: int) -> None:
        for n in range(start, min(start + IMAGES_A_JOB, len(images))):
            hashes[n] = perceptual_hash(images[n])

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(hash_from, range(0, len(images), IMAGES_A_JOB)):
            pass
    return hashes
