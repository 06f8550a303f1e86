"""Find the near-duplicates between sets of images: val like train, test like either, and so on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from trainables.near_duplicates.hamming_search import nearest


class HashedSet(NamedTuple):
    """A set of images as it is compared."""

    name: str
    paths: Sequence[str]
    hashes: np.ndarray  # (N, 4) uint64


class NearDuplicate(NamedTuple):
    """An image, and the one of another set that it looks most like."""

    set_name: str
    path: str
    other_set: str
    other_path: str
    bits: int  # of 256 that differ


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """What was found between sets."""

    pairs: tuple[NearDuplicate, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Images of each set that was compared."""

    @property
    def in_words(self) -> str:
        """Say how many images of each set look like one of another."""
        counts = Counter((pair.set_name, pair.other_set) for pair in self.pairs)
        if not counts:
            return f"none between {', '.join(self.sizes)}"
        words = "; ".join(
            f"{count:,} of {self.sizes[name]:,} images of {name} look like one of {other}"
            for (name, other), count in counts.items()
        )
        return f"{words} (near_duplicates.tsv of the sweep names them)"

    @property
    def table(self) -> str:
        """Write all pairs as tab-separated values, with a line of names."""
        lines = ["\t".join(("set", "path", "other_set", "other_path", "bits"))]
        lines += ["\t".join(map(str, pair)) for pair in self.pairs]
        return "\n".join(lines) + "\n"


def near_duplicates(splits: Sequence[HashedSet], extra: Sequence[HashedSet]) -> NearDuplicates:
    """Compare each split with those before it, and each extra set with all splits.

    Of each image the nearest in each of the other sets is given, byte-equal ones too.
    """
    found = []
    for place, one in enumerate([*splits, *extra]):
        for other in splits[:place]:
            where, bits = nearest(one.hashes, other.hashes)
            found += [
                NearDuplicate(
                    one.name, one.paths[i], other.name, other.paths[where[i]], int(bits[i])
                )
                for i in np.flatnonzero(where >= 0).tolist()
            ]
    sizes = {one.name: len(one.hashes) for one in (*splits, *extra)}
    return NearDuplicates(pairs=tuple(found), sizes=sizes)
