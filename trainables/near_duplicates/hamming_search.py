"""Find the nearest of many perceptual hashes without comparing each with each.

Multi-index hashing (Norouzi, Punjani, Fleet, arXiv:1307.2982): two hashes that differ in few bits
of their first word differ in very few of one of its four bands, and hashes are looked up by bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

# Measured on 2,062 photographs that are much alike, of hand signs before plain walls: no two of
# them are this near, while copies are, compressed again, of half the size or with 1 % cut off each
# side (all), a fifth brighter (99.8 %), or with 2 % cut off (96 %). From 44 bits on, those of
# different hands are (benchmarks/near_duplicates.py).
COARSE_BITS = 7  # of the 64 of the first word, that may differ
ALL_BITS = 40  # of all 256
BANDS, BAND_BITS = 4, 16
MAX_PAIRS = 1 << 21  # that are compared at a time

Neighbours = tuple[np.ndarray, np.ndarray]


def nearest(queries: np.ndarray, references: np.ndarray) -> Neighbours:
    """Find for each hash the nearest of others, if one is near.

    Near are hashes that differ in at most ``COARSE_BITS`` bits of their first word and ``ALL_BITS``
    of all. Hashes that are all zero, of flat images, are near to none.

    Args:
        queries: (N, 4) uint64.
        references: (M, 4) uint64.

    Returns:
        (N,) int64, the position of the nearest reference, of several the first, or -1; and (N,)
        int64, the number of bits that differ from it.
    """
    found, bits = np.full(len(queries), -1), np.zeros(len(queries), dtype=np.int64)
    if not len(queries) or not len(references):
        return found, bits
    own, of_query = np.unique(queries, axis=0, return_inverse=True)
    others, first_other = np.unique(references, axis=0, return_index=True)
    best = np.full(len(own), np.iinfo(np.int64).max)  # bits, then position, in one number
    for mine, theirs in _candidates(own[:, 0], others[:, 0]):
        distance = np.bitwise_count(own[mine] ^ others[theirs]).sum(axis=1, dtype=np.int64)
        near = (distance <= ALL_BITS) & own[mine].any(axis=1) & others[theirs].any(axis=1)
        np.minimum.at(best, mine[near], (distance[near] << 48) | first_other[theirs[near]])
    is_near = best < np.iinfo(np.int64).max
    place = np.where(is_near, best & ((1 << 48) - 1), -1)
    distance = np.where(is_near, best >> 48, 0)
    return place[of_query.ravel()], distance[of_query.ravel()]


def _candidates(own: np.ndarray, others: np.ndarray) -> Iterator[Neighbours]:
    """Give pairs of positions that hold each pair whose words differ in few bits, in parts."""
    for band in range(BANDS):
        shift = np.uint64(band * BAND_BITS)
        of_own = ((own >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        of_others = ((others >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(of_others, kind="stable")
        starts = np.searchsorted(of_others[order], np.arange((1 << BAND_BITS) + 1))
        for mask in _masks(_band_radius(band)):
            wanted = of_own ^ mask
            for mine, theirs in _expanded(starts[wanted], starts[wanted + 1]):
                theirs = order[theirs]
                near = np.bitwise_count(own[mine] ^ others[theirs]) <= COARSE_BITS
                yield mine[near], theirs[near]


def _band_radius(band: int) -> int:
    """How many bits of a band may differ.

    Were there more in each, words would differ in ``COARSE_BITS`` + 1 bits: the radii and one more
    for each band add up to that.
    """
    whole, rest = divmod(COARSE_BITS + 1 - BANDS, BANDS)
    return whole + (band < rest)


def _masks(radius: int) -> Iterator[int]:
    """Give all values of a band with at most so many bits set."""
    for count in range(radius + 1):
        for places in combinations(range(BAND_BITS), count):
            yield sum(1 << place for place in places)


def _expanded(starts: np.ndarray, ends: np.ndarray) -> Iterator[Neighbours]:
    """Give (i, j) for each i and each j from ``starts[i]`` to before ``ends[i]``, in parts."""
    rows = np.flatnonzero(ends > starts)
    counts = (ends - starts)[rows]
    totals = np.cumsum(counts)
    done = 0
    while done < len(rows):
        before = totals[done - 1] if done else 0
        upto = max(done + 1, int(np.searchsorted(totals, before + MAX_PAIRS, side="right")))
        some = counts[done:upto]
        mine = np.repeat(rows[done:upto], some)
        within = np.arange(len(mine)) - np.repeat(np.cumsum(some) - some, some)
        yield mine, starts[mine] + within
        done = upto
