"""Open decoded images in splits, as :mod:`trainables.data.decode` stored them in the cache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainables.data.pixels import BadImageError, to_rgb
from trainables.errors import SweepError
from trainables.sources.splits import SPLITS

Form = Literal["decoded", "encoded"]
# What a set keeps of its images, one after another: their pixels, or the bytes of their files.
FILES: Mapping[Form, str] = {"decoded": "pixels.bin", "encoded": "files.bin"}


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file, or a row of a table, that is not among the images, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images in three splits. Small to pickle: their pixels, or files, stay in the cache."""

    root: Path
    """The folder in the cache that holds them."""
    digest: str
    """Names classes, images, splits and stored size, whatever the files are called."""
    classes: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    """Sentences to show to the user."""
    layout: str = field(default="", compare=False)
    """How the images lay, in words; empty where they were not listed."""
    splits_in_words: str = field(default="", compare=False)
    """Where the splits are from; empty where they were read before this was kept."""
    whites: Mapping[str, int] = field(default_factory=dict, hash=False)
    """The value that is white by kind of image (:mod:`trainables.data.samples`)."""
    val_in_train: bool = False
    """Whether train holds the images of val too: then there is no val."""
    groups_path: Path | None = field(default=None, compare=False)
    """The file that counts the images of each group, by split; None: they were not grouped."""

    def merged(self) -> ImageSet:
        """Put the images of val into train, to train on both once all is chosen.

        The merged set has no val, so that nothing is scored on images that were trained on, and a
        digest of its own, so that results from it are not taken for the plain set's.
        """
        return replace(self, digest=f"{self.digest}-trainval", val_in_train=True)

    def split(self, name: str) -> SplitImages:
        """Open "train", "val" or "test"; the order of the images is the same everywhere.

        Raises:
            ValueError: there is no such split.
        """
        return SplitImages(self.root, self._stored(name))

    def groups(self, name: str) -> Mapping[str, int]:
        """Count the images of each group in a split; images that are alone are in none.

        Raises:
            ValueError: there is no such split.
        """
        stored = self._stored(name)
        if self.groups_path is None:
            return {}
        counts: Counter[str] = Counter()
        by_split = json.loads(self.groups_path.read_text())
        for split in stored:
            counts.update(by_split.get(split, {}))
        return counts

    def _stored(self, name: str) -> tuple[str, ...]:
        """List the splits of the cache that one is put together of."""
        stored: dict[str, tuple[str, ...]] = {split: (split,) for split in SPLITS}
        if self.val_in_train:
            stored = {"train": ("train", "val"), "test": ("test",)}
        if name not in stored:
            raise ValueError(f"no split {name!r}: there are {', '.join(stored)}")
        return stored[name]


class SplitImages:
    """The images of one split, in an order that mixes the classes. Read-only.

    Pickles as its path, to be reopened by another process of the same node.

    Args:
        root: the folder in the cache.
        stored: the splits there that are put together; their order plays no part.

    Attributes:
        labels: (N,) int64, positions in :attr:`ImageSet.classes`.
        sizes: (N, 2) int32, height and width in px, of the stored images.
        in_set: (M,) bool, which images of the whole set are in the split.
        root: the folder in the cache.
    """

    labels: np.ndarray
    sizes: np.ndarray
    in_set: np.ndarray
    root: Path

    def __init__(self, root: Path, stored: Sequence[str]) -> None:
        with _opened_index(root, stored) as (chosen, self.in_set):
            self.labels = chosen["label"].to_numpy().astype(np.int64)
            self.sizes = np.stack(
                [chosen[edge].to_numpy().astype(np.int32) for edge in ("height", "width")], axis=1
            )
            self._offsets = chosen["offset"].to_numpy().astype(np.int64)
            self._lengths: np.ndarray | None = None  # of files; None: the pixels are there
            if (root / FILES["encoded"]).exists():
                self._lengths = chosen["length"].to_numpy().astype(np.int64)
                description = json.loads((root / "images.json").read_text())
                self._side, self._whites = description["side"], description.get("whites", {})
        self.labels.setflags(write=False)
        self.sizes.setflags(write=False)
        file = root / FILES["decoded" if self._lengths is None else "encoded"]
        # A plain array over the map: slicing the memmap class itself costs several times more.
        self._bytes = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        self.root = root
        self._opened = (root, tuple(stored))

    def __reduce__(self) -> tuple[type[SplitImages], tuple[Path, tuple[str, ...]]]:
        return SplitImages, self._opened

    def hashes(self) -> set[bytes]:
        """Read the sha256 of the bytes of each image's file."""
        with _opened_index(*self._opened) as (chosen, _):
            return set(chosen["sha256"].to_pylist())

    def paths(self) -> list[str]:
        """Read the path of each image, as it was when it was decoded; in a table with "#row"."""
        with _opened_index(*self._opened) as (chosen, _):
            paths: list[str] = chosen["path"].to_pylist()
            return paths

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Look at an image, (H, W, 3) uint8 RGB.

        It is a read-only view into the cache, not a copy; or decoded, where the set keeps files.

        Raises:
            SweepError: the file, which was readable, is no more: it was damaged on the disk.
        """
        start = self._offsets[index]
        height, width = self.sizes[index].tolist()
        if self._lengths is None:
            return self._bytes[start : start + height * width * 3].reshape(height, width, 3)
        content = self._bytes[start : start + self._lengths[index]].tobytes()
        try:
            return to_rgb(content, self._side, self._whites)
        except BadImageError as error:
            raise SweepError(
                f"An image in the cache's {self.root} is damaged ({error}): delete that folder, "
                "and the same command decodes the images anew."
            ) from error


@contextmanager
def _opened_index(root: Path, stored: Sequence[str]) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Open the rows of the index that are of these splits, and say which of all rows they are."""
    with pa.memory_map(str(root / "index.arrow")) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
        mask = pc.is_in(table["split"], pa.array(stored))
        yield table.filter(mask), mask.to_numpy()
