"""Near-duplicates between sets: which are compared, and how they are told."""

from __future__ import annotations

import numpy as np

from trainables.near_duplicates.pairs import HashedSet, NearDuplicates, near_duplicates

HASHES = np.random.default_rng(0).integers(0, 2**64, (20, 4), dtype=np.uint64)


def a_set(name: str, *numbers: int) -> HashedSet:
    return HashedSet(name, [f"{name}/{n}.jpg" for n in numbers], HASHES[list(numbers)])


def test_splits_are_compared_with_those_before_and_extra_sets_with_all_splits() -> None:
    splits = [a_set("train", 0, 1, 2, 3), a_set("val", 3, 4), a_set("test", 4, 0, 5)]
    found = near_duplicates(splits, [a_set("v2", 5, 9), a_set("r", 9, 1)])
    assert [tuple(pair) for pair in found.pairs] == [
        ("val", "val/3.jpg", "train", "train/3.jpg", 0),
        ("test", "test/0.jpg", "train", "train/0.jpg", 0),
        ("test", "test/4.jpg", "val", "val/4.jpg", 0),
        ("v2", "v2/5.jpg", "test", "test/5.jpg", 0),
        ("r", "r/1.jpg", "train", "train/1.jpg", 0),
    ]
    assert found.in_words == (
        "1 of 2 images of val look like one of train; 1 of 3 images of test look like one of train;"
        " 1 of 3 images of test look like one of val; 1 of 2 images of v2 look like one of test;"
        " 1 of 2 images of r look like one of train (near_duplicates.tsv of the sweep names them)"
    )
    header, first, *rest = found.table.splitlines()
    assert header.split("\t") == ["set", "path", "other_set", "other_path", "bits"]
    assert first == "val\tval/3.jpg\ttrain\ttrain/3.jpg\t0" and len(rest) == 4


def test_none_is_told_as_none() -> None:
    found = near_duplicates([a_set("train", 0), a_set("val", 1)], [])
    assert found == NearDuplicates(sizes={"train": 1, "val": 1})
    assert found.in_words == "none between train, val" and found.table.count("\n") == 1
