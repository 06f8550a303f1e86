"""Keep the features of a view in files of some thousand images each, in half precision.

cells/<key>/<view>-<n>.arrow                features under the re-estimated statistics, and labels
cells/<key>/<view>-<n>.raw.safetensors      features under the statistics of the images before them,
                                            with their slopes; gone once they are corrected
cells/<key>/<view>.moments.safetensors      moments of the images so far; gone when the cell ends

Half precision rounds by 0.03 % on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch

from trainables.fixres.feature_parts import FeatureParts
from trainables.fixres.features import NormStatistics, read_features, write_features
from trainables.fixres.streaming.first_order import FeatureSlopes
from trainables.fixres.streaming.input_moments import InputMoments
from trainables.storage.damage import unless_damaged
from trainables.storage.files import Place, children, read_tensors, write_tensors
from trainables.storage.object_store import RemotePath

SHARD_IMAGES = 8192  # at most: 270 MB of memory for the 5,504 features of the largest net


@dataclass(frozen=True, kw_only=True)
class RawShard:
    """Features of some images with their slopes, and the statistics that they were made under."""

    found: FeatureSlopes  # float16 on the CPU
    statistics: NormStatistics


def shard_ends(count: int, prefix: int) -> tuple[int, ...]:
    """Divide images into shards: the positions at which each ends.

    The first ``prefix`` images are divided for themselves, as their features are all made under
    their own statistics. A shard after them has no more images than there are before it: so the
    statistics that it is made under become better as fast as they can.
    """
    ends = [*range(SHARD_IMAGES, min(prefix, count), SHARD_IMAGES), min(prefix, count)]
    while ends[-1] < count:
        ends.append(min(count, ends[-1] + min(SHARD_IMAGES, ends[-1])))
    return tuple(ends)


@dataclass(frozen=True, kw_only=True)
class FeatureShards:
    """The files of one view."""

    folder: Place  # of a cell
    name: str  # of the view
    labels: np.ndarray  # (N,) int64, of all its images
    prefix: int  # as of :func:`shard_ends`

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The positions at which the shards end."""
        return shard_ends(len(self.labels), self.prefix)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The positions of each shard's images: the first, and that after the last."""
        return list(zip((0, *self.ends[:-1]), self.ends, strict=True))

    def within(self, folder: Place) -> FeatureShards:
        """Give the files of the same view in the folder of another cell."""
        return replace(self, folder=folder)

    def write(self, number: int, features: torch.Tensor) -> np.ndarray | None:
        """Write a shard: (n, F), of any device; it is final.

        Returns:
            (n, F) float16, what an object store was sent, where reading it back would fetch it.
        """
        start, end = self.spans[number]
        kept = features.half().cpu()
        write_features(self._path(number), kept, self.labels[start:end])
        self._raw_path(number).unlink(missing_ok=True)
        return kept.numpy() if isinstance(self.folder, RemotePath) else None

    def read(self, known: Mapping[int, np.ndarray] = MappingProxyType({})) -> FeatureParts | None:
        """Read all features: (N, F) float16; None: a shard is not there, or not sound.

        Args:
            known: shards that need not be read.
        """
        parts = []
        for number in range(len(self.ends)):
            shard = known[number] if number in known else self.read_shard(number)
            if shard is None:
                return None
            parts.append(shard)
        return FeatureParts(tuple(parts))

    def read_shard(self, number: int) -> np.ndarray | None:
        """Read a shard that is final: (n, F) float16; None: it is not there, or not sound.

        A file on this machine is mapped.
        """
        path, (start, end) = self._path(number), self.spans[number]
        found = unless_damaged(lambda: read_features(path) if path.exists() else None)
        if found is None or not np.array_equal(found[1], self.labels[start:end]):
            return None
        return found[0]

    def write_raw(self, number: int, raw: RawShard) -> None:
        """Write a shard that is to be corrected."""
        parts = {"mean": raw.statistics.mean, "var": raw.statistics.var, **vars(raw.found)}
        write_tensors(self._raw_path(number), parts)

    def read_raw(self, number: int) -> RawShard | None:
        """Read a shard that is to be corrected; None: it is not there, or damaged."""
        path = self._raw_path(number)
        parts = unless_damaged(lambda: read_tensors(path) if path.exists() else None)
        if parts is None:
            return None
        statistics = NormStatistics(parts.pop("mean"), parts.pop("var"))
        return RawShard(found=FeatureSlopes(**parts), statistics=statistics)

    def write_moments(self, moments: InputMoments, shards: int) -> None:
        """Write the moments of the images of so many shards, which are written already."""
        write_tensors(self._moments_path, {**moments.state(), "shards": torch.tensor(shards)})

    def read_moments(self, device: torch.device) -> tuple[InputMoments, int] | None:
        """Read what :meth:`write_moments` wrote last; None: nothing, or it is damaged."""
        path = self._moments_path
        state = unless_damaged(lambda: read_tensors(path) if path.exists() else None)
        if state is None:
            return None
        return InputMoments.from_state(state, device), int(state["shards"])

    def end(self) -> None:
        """Delete what only a pass under way needs: of one that was cut off raw shards too."""
        self._moments_path.unlink(missing_ok=True)
        raw = {self._raw_path(number).name for number in range(len(self.ends))}
        for path in children(self.folder):
            if path.name in raw:
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Place:
        return self.folder / f"{self.name}-{number:05d}.arrow"

    def _raw_path(self, number: int) -> Place:
        return self.folder / f"{self.name}-{number:05d}.raw.safetensors"

    @property
    def _moments_path(self) -> Place:
        return self.folder / f"{self.name}.moments.safetensors"
