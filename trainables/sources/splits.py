"""Decide the split of each image: by a salted hash of its bytes, so that equal bytes share one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from trainables.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def assign_splits(
    labels: Sequence[int],
    hashes: Sequence[bytes],
    splits: Sequence[str],
    classes: Sequence[str],
    wanted: dict[str, float],
    seed: int,
) -> list[str]:
    """Move images from train into the splits that the data came without.

    Ranks the distinct images of each class by a salted hash of their bytes, so that the result
    depends on neither names nor order, and equal bytes never end up in two splits.

    Args:
        labels, hashes, splits: of each image: class index, sha256 of its bytes, split so far.
        classes: class names, for messages.
        wanted: new split -> share of each class's distinct images.
        seed: the salt.

    Returns:
        The split of each image.

    Raises:
        UserError: a class has too few distinct images.
    """
    settled = {told: split for told, split in zip(hashes, splits, strict=True) if split != "train"}
    # What a given split already holds stays in train: moving it would leak into one more split.
    chosen: dict[bytes, str] = dict.fromkeys(settled, "train")
    of_class: dict[int, set[bytes]] = defaultdict(set)
    for label, told, split in zip(labels, hashes, splits, strict=True):
        if split == "train":
            of_class[label].add(told)
    for label, name in enumerate(classes):
        distinct = of_class[label]
        if len(distinct) < 1 + len(wanted):
            raise UserError(
                f"Class {name} has {len(distinct)} distinct readable training image(s), too few"
                f" for {1 + len(wanted)} splits: add images or remove the class."
            )
        _share_out(distinct, chosen, wanted, seed)
        if all(chosen[told] != "train" for told in distinct):
            raise UserError(
                f"All images of class {name} are also in other classes, and none is left to train"
                " on: give each image one class."
            )
    return [
        chosen[told] if split == "train" else split
        for told, split in zip(hashes, splits, strict=True)
    ]


def _share_out(
    distinct: set[bytes], chosen: dict[bytes, str], wanted: dict[str, float], seed: int
) -> None:
    """Choose the split of each distinct image of one class; one chosen before keeps its split."""
    counts = {split: max(1, int(share * len(distinct) + 0.5)) for split, share in wanted.items()}
    while sum(counts.values()) >= len(distinct):
        counts[max(counts, key=lambda split: counts[split])] -= 1
    for told in distinct & chosen.keys():
        if chosen[told] in counts:
            counts[chosen[told]] -= 1
    salt = f"{seed}:".encode()
    ranked = sorted(distinct - chosen.keys(), key=lambda told: hashlib.sha256(salt + told).digest())
    if ranked and all(chosen.get(told) != "train" for told in distinct):
        # Where other classes chose for most of these images, one is still left to train on.
        chosen[ranked.pop()] = "train"
    for told in ranked:
        split = next((split for split, count in counts.items() if count > 0), "train")
        chosen[told] = split
        if split in counts:
            counts[split] -= 1


def duplicate_notes(
    labels: Sequence[int], hashes: Sequence[bytes], splits: Sequence[str]
) -> list[str]:
    """Sentences on equal bytes in several splits, and under several classes."""
    in_split: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    classes_of: dict[bytes, set[int]] = defaultdict(set)
    for label, told, split in zip(labels, hashes, splits, strict=True):
        in_split[split].add(told)
        classes_of[told].add(label)
    notes = []
    for first, second in (*pairwise(SPLITS), (SPLITS[0], SPLITS[2])):
        shared = len(in_split[first] & in_split[second])
        if shared:
            notes.append(f"{shared} image(s) of {second} are also in {first}, byte for byte.")
    torn = sum(len(found) > 1 for found in classes_of.values())
    if torn:
        notes.append(f"{torn} image(s) occur in more than one class, byte for byte.")
    return notes
