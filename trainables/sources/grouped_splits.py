"""Divide groups of images among the splits that the data came without: a group stays together.

Groups that share an image are one, so that equal bytes share a split as well.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainables.errors import UserError

ROUNDS = 10  # of filling splits and giving back, at most: each brings shares nearer


@dataclass
class _Unit:
    """What can only be moved as a whole: groups that share images, or an image of no group."""

    sizes: Mapping[int, int]  # distinct images of train, by class
    rank: bytes  # what the draw sorts by
    pinned: bool  # in train: a split that was given holds some of it
    split: str = "train"


def assign_groups(
    labels: Sequence[int],
    hashes: Sequence[bytes],
    groups: Sequence[str | None],
    splits: Sequence[str],
    classes: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
) -> list[str]:
    """Move groups of images from train into the splits that the data came without.

    Groups are taken in the order of a salted hash of their names; each moves to the split that it
    brings nearer to its share of each class (by the chi-squared statistic), and stays in train
    where it brings none nearer; what turns out to be too much goes back, as long as that helps.
    Then each split gets the best group of each class that it lacks. The last group of a class stays
    in train.

    Args:
        labels, hashes, splits: each image's class index, sha256 of its bytes, split so far.
        groups: each image's group; None: it has none, and is drawn by its bytes.
        classes: class names, for messages.
        shares: new split -> share of each class's distinct images.
        seed: the salt.

    Returns:
        The split of each image.

    Raises:
        UserError: a class has no image in train, or there are too few groups for the splits.
    """
    keys = _joined(hashes, groups)
    units = _units(keys, labels, hashes, groups, splits, seed)
    division = _Division(units.values(), shares)
    for label, name in enumerate(classes):
        if not division.left[label]:
            raise UserError(
                f"Class {name} has no readable training image: add images or remove the class."
            )
    division.divide()
    for split in shares:
        if all(unit.split != split for unit in units.values()):
            raise UserError(
                f"The images of train form {len(units)} group(s), too few to leave some of each"
                f" class to train on and to make {' and '.join(shares)} of others: give a"
                " `group_by` that makes smaller groups, or images of more groups."
            )
    return [
        units[key].split if split == "train" else split
        for key, split in zip(keys, splits, strict=True)
    ]


class _Division:
    """The course of a division: how much each split lacks of each class."""

    def __init__(self, units: Iterable[_Unit], shares: Mapping[str, float]) -> None:
        self.units = sorted(units, key=lambda unit: unit.rank)
        self.splits = tuple(shares)
        self.totals: Counter[int] = Counter()
        self.left: Counter[int] = Counter()  # units in train, by class
        self.of_class: dict[int, list[_Unit]] = defaultdict(list)
        for unit in self.units:
            self.totals.update(unit.sizes)
            self.left.update(unit.sizes.keys())
            for label in unit.sizes:
                self.of_class[label].append(unit)
        self.missing = {
            split: {label: share * total for label, total in self.totals.items()}
            for split, share in shares.items()
        }

    def divide(self) -> None:
        """Move units out of train; every class keeps one there.

        What moved early may turn out to be too much for one of its classes once others are full.
        """
        for _ in range(ROUNDS):
            self._fill()
            if not self._give_back():
                break
        for split in self.splits:
            for label in sorted(self.totals):
                self._cover(split, label)

    def _fill(self) -> None:
        """Move each unit to the split that it brings nearest to its shares, if to any."""
        for unit in self.units:
            split = max(self.splits, key=lambda split: self._gain(unit, split))
            if self._gain(unit, split) > 0 and self._may_move(unit):
                self._move(unit, split)

    def _give_back(self) -> bool:
        """Move units back to train whose split is nearer to its shares without them."""
        moved = False
        for unit in reversed(self.units):
            if unit.split != "train" and self._gain(unit, unit.split, sign=-1) > 0:
                self._move(unit, unit.split, sign=-1)
                moved = True
        return moved

    def _cover(self, split: str, label: int) -> None:
        """Move the unit that fits best into a split that has none of the class, if one may."""
        own = self.of_class[label]
        if any(unit.split == split for unit in own):
            return
        movable = [unit for unit in own if self._may_move(unit)]
        if movable:
            self._move(max(movable, key=lambda unit: self._gain(unit, split)), split)

    def _gain(self, unit: _Unit, split: str, sign: int = 1) -> float:
        """How much of the split's chi-squared distance to its shares the unit would take away.

        Args:
            sign: 1 where it would come, -1 where it would leave.
        """
        missing = self.missing[split]
        return sum(
            size * (sign * 2 * missing[label] - size) / self.totals[label]
            for label, size in unit.sizes.items()
        )

    def _may_move(self, unit: _Unit) -> bool:
        is_free = unit.split == "train" and not unit.pinned
        return is_free and all(self.left[label] > 1 for label in unit.sizes)

    def _move(self, unit: _Unit, split: str, sign: int = 1) -> None:
        """Move a unit from train to a split, or back (-1)."""
        unit.split = split if sign > 0 else "train"
        for label, size in unit.sizes.items():
            self.missing[split][label] -= sign * size
            self.left[label] -= sign


def _units(
    keys: Sequence[str],
    labels: Sequence[int],
    hashes: Sequence[bytes],
    groups: Sequence[str | None],
    splits: Sequence[str],
    seed: int,
) -> dict[str, _Unit]:
    """Make the units of train by their keys."""
    images: dict[str, set[tuple[int, bytes]]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    given: set[str] = set()
    for key, label, image, group, split in zip(keys, labels, hashes, groups, splits, strict=True):
        if group is not None:
            names[key].add(group)
        if split == "train":
            images[key].add((label, image))
        else:
            given.add(key)
    units = {}
    for key, own in images.items():
        # An image of no group is drawn by its bytes, as where there are no groups at all.
        drawn_by = "\0".join(sorted(names[key])).encode() if names[key] else min(own)[1]
        units[key] = _Unit(
            sizes=Counter(label for label, _ in own),
            rank=hashlib.sha256(f"{seed}:".encode() + drawn_by).digest(),
            pinned=key in given,
        )
    return units


def _joined(hashes: Sequence[bytes], groups: Sequence[str | None]) -> list[str]:
    """Give images of one group, and equal images, the same key (union-find)."""
    above: dict[str, str] = {}

    def top(node: str) -> str:
        while (parent := above.setdefault(node, node)) != node:
            above[node] = above.setdefault(parent, parent)  # halves the way for the next
            node = parent
        return node

    nodes = [f"image {image.hex()}" for image in hashes]
    for node, group in zip(nodes, groups, strict=True):
        first, second = top(node), top(node if group is None else f"group {group}")
        above[first] = second
    return [top(node) for node in nodes]
