"""Assign each image to a split by a salted hash of its bytes, so that equal bytes share one."""

from __future__ import annotations

import hashlib
import re
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
# "TestSet", "train2017" and "val_images" speak of splits as well, and so does "dev".
_WORDS = SPLIT_WORDS | {"dev": "val"}
_SPEAKING = re.compile(
    rf"({'|'.join(_WORDS)})(set|data|dataset|image|img|pic|picture|photo|split)?s?\d*"
)


def splits_named_in(name: str) -> set[str]:
    """The splits that the words of a file's or folder's name speak of, as seg_train does."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    matches = (_SPEAKING.fullmatch(word) for word in re.findall(r"[^\W_]+", spaced))
    return {_WORDS[match[1]] for match in matches if match}


def split_of_folder(name: str) -> str | None:
    """The split that a folder's name speaks of; None: of none, or of several."""
    splits = splits_named_in(name)
    return splits.pop() if len(splits) == 1 else None


def assign_splits(
    labels: Sequence[int],
    hashes: Sequence[bytes],
    splits: Sequence[str],
    classes: Sequence[str],
    shares: dict[str, float],
    seed: int,
) -> list[str]:
    """Move images from train into the splits that the data came without.

    Ranks the distinct images of each class by a salted hash of their bytes, so that the result
    depends on neither names nor order, and equal bytes never end up in two splits.

    Args:
        labels, hashes, splits: each image's class index, sha256 of its bytes, split so far.
        classes: class names, for messages.
        shares: new split -> share of each class's distinct images.
        seed: the salt.

    Returns:
        The split of each image.

    Raises:
        UserError: a class has too few distinct images.
    """
    # An image that a given split holds as well stays in train: moved, it would leak into a third.
    chosen: dict[bytes, str] = {
        image: "train" for image, split in zip(hashes, splits, strict=True) if split != "train"
    }
    by_class: dict[int, set[bytes]] = defaultdict(set)
    for label, image, split in zip(labels, hashes, splits, strict=True):
        if split == "train":
            by_class[label].add(image)
    for label, name in enumerate(classes):
        distinct = by_class[label]
        if len(distinct) < 1 + len(shares):
            raise UserError(
                f"Class {name} has {len(distinct)} distinct readable training image(s), too few"
                f" for {1 + len(shares)} splits: add images or remove the class."
            )
        _assign_class(distinct, chosen, shares, seed)
        if all(chosen[image] != "train" for image in distinct):
            raise UserError(
                f"All images of class {name} are also in other classes, and none is left to train"
                " on: give each image one class."
            )
    return [
        chosen[image] if split == "train" else split
        for image, split in zip(hashes, splits, strict=True)
    ]


def _assign_class(
    distinct: set[bytes], chosen: dict[bytes, str], shares: dict[str, float], seed: int
) -> None:
    """Choose the split of each distinct image of one class; one chosen before keeps its split.

    Args:
        distinct: hashes of the images.
        chosen: hash -> split; what is chosen here is added.
    """
    missing = {split: max(1, int(share * len(distinct) + 0.5)) for split, share in shares.items()}
    while sum(missing.values()) >= len(distinct):
        missing[max(missing, key=lambda split: missing[split])] -= 1
    for image in distinct & chosen.keys():
        if chosen[image] in missing:
            missing[chosen[image]] -= 1
    salt = f"{seed}:".encode()
    ranked = sorted(
        distinct - chosen.keys(), key=lambda image: hashlib.sha256(salt + image).digest()
    )
    if ranked and all(chosen.get(image) != "train" for image in distinct):
        # Where other classes chose for most of these images, one is still left to train on.
        chosen[ranked.pop()] = "train"
    for image in ranked:
        split = next((split for split, count in missing.items() if count > 0), "train")
        chosen[image] = split
        if split in missing:
            missing[split] -= 1


def duplicate_notes(
    labels: Sequence[int], hashes: Sequence[bytes], splits: Sequence[str]
) -> list[str]:
    """Write sentences on equal bytes in several splits, and under several classes."""
    in_split: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    classes_of: dict[bytes, set[int]] = defaultdict(set)
    for label, image, split in zip(labels, hashes, splits, strict=True):
        in_split[split].add(image)
        classes_of[image].add(label)
    notes = []
    for first, second in (*pairwise(SPLITS), (SPLITS[0], SPLITS[2])):
        shared = len(in_split[first] & in_split[second])
        if shared:
            notes.append(f"{shared} image(s) of {second} are also in {first}, byte for byte.")
    ambiguous = sum(len(image_classes) > 1 for image_classes in classes_of.values())
    if ambiguous:
        notes.append(f"{ambiguous} image(s) occur in more than one class, byte for byte.")
    return notes
