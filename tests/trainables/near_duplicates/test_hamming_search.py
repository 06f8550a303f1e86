"""The nearest of many hashes: what the bands find is what comparing each with each finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.near_duplicates import hamming_search
from trainables.near_duplicates.hamming_search import ALL_BITS, COARSE_BITS, nearest


def hashes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**64, (count, 4), dtype=np.uint64)


def with_flips(rng: np.random.Generator, word: np.ndarray, coarse: int, fine: int) -> np.ndarray:
    """A hash that differs in so many bits of the first word, and so many of the others."""
    bits = np.unpackbits(word.astype(">u8").view(np.uint8))
    bits[rng.permutation(64)[:coarse]] ^= 1
    bits[64 + rng.permutation(192)[:fine]] ^= 1
    flipped: np.ndarray = np.packbits(bits).view(">u8").astype(np.uint64)
    return flipped


def by_brute_force(queries: np.ndarray, references: np.ndarray) -> list[tuple[int, int]]:
    found = []
    for query in queries:
        bits = np.bitwise_count(references ^ query)
        whole = bits.sum(axis=1, dtype=np.int64) if len(bits) else np.zeros(0, dtype=np.int64)
        near = (bits[:, 0] <= COARSE_BITS) & (whole <= ALL_BITS) & references.any(axis=1)
        places = np.flatnonzero(near & query.any())
        best = min(((int(whole[place]), int(place)) for place in places), default=None)
        found.append((-1, 0) if best is None else best[::-1])
    return found


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_bands_find_what_comparing_each_with_each_finds(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    references = hashes(rng, data.draw(st.integers(1, 40)))
    queries = list(hashes(rng, 3))
    for _ in range(data.draw(st.integers(0, 30))):  # around the bounds, and copies
        coarse, fine = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 45))
        queries.append(with_flips(rng, references[rng.integers(len(references))], coarse, fine))
    if data.draw(st.booleans()):  # several as near, copies among those, and flat images
        more = [with_flips(rng, query, 1, 1) for query in queries]
        references = np.concatenate([references, more, references[:3], np.zeros((2, 4), np.uint64)])
        queries.append(np.zeros(4, dtype=np.uint64))
    found, bits = nearest(np.array(queries), references)
    assert list(zip(found.tolist(), bits.tolist(), strict=True)) == by_brute_force(
        np.array(queries), references
    )


def test_pairs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    references = hashes(rng, 300)
    references[:, 0] &= np.uint64(0xFFFFFF)  # so that bands agree in many
    queries = np.array([with_flips(rng, one, 3, 20) for one in references])
    whole = nearest(queries, references)
    monkeypatch.setattr(hamming_search, "MAX_PAIRS", 7)
    parts = nearest(queries, references)
    assert [one.tolist() for one in parts] == [one.tolist() for one in whole]
    assert whole[0].tolist() == list(range(300)) and set(whole[1].tolist()) == {23}


@pytest.mark.parametrize(("own", "others"), [(0, 5), (5, 0), (0, 0)])
def test_no_hashes_have_no_neighbours(own: int, others: int) -> None:
    rng = np.random.default_rng(0)
    found, bits = nearest(hashes(rng, own), hashes(rng, others))
    assert found.tolist() == [-1] * own and bits.tolist() == [0] * own
