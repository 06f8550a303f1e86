"""Groups of images that are moved from train into the splits that the data came without."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.errors import UserError
from trainables.sources.grouped_splits import assign_groups
from trainables.sources.splits import SPLITS

SHARES = {"val": 0.15, "test": 0.15}


def sha(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def assigned(
    labels: list[int],
    groups: list[Any],
    hashes: list[bytes] | None = None,
    splits: list[str] | None = None,
    shares: dict[str, float] | None = None,
    seed: int = 0,
) -> list[str]:
    return assign_groups(
        labels,
        hashes or [sha(number) for number in range(len(labels))],
        groups,
        splits or ["train"] * len(labels),
        [f"class{label}" for label in range(max(labels) + 1)],
        SHARES if shares is None else shares,
        seed,
    )


def persons(count: int, classes: int, each: int) -> tuple[list[int], list[str]]:
    """Each person has as many images of each class."""
    labels = [label for _ in range(count) for label in range(classes) for _ in range(each)]
    groups = [f"p{person}" for person in range(count) for _ in range(classes * each)]
    return labels, groups


def test_persons_of_all_classes_are_in_one_split_each_and_shares_are_met() -> None:
    labels, groups = persons(20, 5, 4)
    splits = assigned(labels, groups)
    of_person = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        of_person[group].add(split)
    assert all(len(found) == 1 for found in of_person.values())
    assert Counter(next(iter(found)) for found in of_person.values()) == {
        "train": 14,
        "val": 3,
        "test": 3,
    }


def test_the_draw_is_by_the_group_and_the_seed_not_by_bytes_or_order() -> None:
    labels, groups = persons(30, 2, 3)
    splits = dict(zip(groups, assigned(labels, groups), strict=True))
    other_bytes = assigned(labels, groups, [sha("other", n) for n in range(len(labels))])
    backward = assigned(labels[::-1], groups[::-1])
    assert dict(zip(groups, other_bytes, strict=True)) == splits
    assert dict(zip(groups[::-1], backward, strict=True)) == splits
    assert dict(zip(groups, assigned(labels, groups, seed=1), strict=True)) != splits


def test_images_of_no_group_are_divided_as_images() -> None:
    labels = [0] * 200 + [1] * 40
    counts = Counter(zip(labels, assigned(labels, [None] * 240), strict=True))
    assert [counts[0, split] for split in SPLITS] == [140, 30, 30]
    assert [counts[1, split] for split in SPLITS] == [28, 6, 6]


def test_shares_are_met_by_groups_over_several_classes() -> None:
    rng = random.Random(0)
    labels = [rng.randrange(20) for _ in range(4000)]
    groups = [f"g{rng.randrange(2500)}" for _ in labels]
    counts = Counter(assigned(labels, groups))
    assert [counts[name] / 4000 for name in ("val", "test")] == pytest.approx([0.15] * 2, abs=0.001)
    held = Counter(zip(labels, assigned(labels, groups), strict=True))
    for label, total in Counter(labels).items():
        assert held[label, "val"] / total == pytest.approx(0.15, abs=0.01)


def test_three_groups_make_three_splits() -> None:
    labels, groups = persons(3, 4, 5)
    assert sorted(set(assigned(labels, groups))) == ["test", "train", "val"]


def test_groups_of_equal_images_are_one() -> None:
    labels, groups = persons(12, 2, 2)
    hashes = [sha(n) for n in range(len(labels))]
    for person in range(0, 12, 2):  # its first image is the next one's too
        hashes[4 * (person + 1)] = hashes[4 * person]
    splits = assigned(labels, groups, hashes)
    for person in range(0, 12, 2):
        assert len(set(splits[4 * person : 4 * person + 8])) == 1


def test_what_a_given_split_holds_some_of_stays_in_train() -> None:
    labels, groups = persons(20, 2, 2)
    labels += [0, 1]
    groups += ["p3", "p7"]
    result = assigned(labels, groups, splits=["train"] * 80 + ["val"] * 2, shares={"test": 0.3})
    assert result[-2:] == ["val", "val"]
    assert {s for g, s in zip(groups[:80], result, strict=False) if g in ("p3", "p7")} == {"train"}
    assert result.count("test") == 24


def test_a_class_of_one_group_stays_in_train() -> None:
    labels, groups = persons(10, 2, 3)
    labels += [2] * 6
    groups += ["alone"] * 6
    splits = assigned(labels, groups)
    assert set(splits[-6:]) == {"train"} and set(splits) == set(SPLITS)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_groups_are_refused(count: int) -> None:
    labels, groups = persons(count, 2, 10)
    with pytest.raises(UserError, match=rf"form {count} group\(s\), too few .* `group_by`"):
        assigned(labels, groups)


def test_a_class_without_a_training_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"Class class1 has no readable training image"):
        assigned([0, 0, 2, 2], ["a", "b", "c", "d"])


@st.composite
def group_sizes(draw: st.DrawFn) -> tuple[list[int], list[Any], list[bytes]]:
    """Groups over up to four classes, some images without one, some images twice."""
    labels: list[int] = []
    groups: list[Any] = []
    for number in range(draw(st.integers(12, 40))):
        name = draw(st.sampled_from([f"g{number}", None]))
        own = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
        labels += own
        groups += [name] * len(own)
    hashes = [sha(number) for number in range(len(labels))]
    places = st.integers(0, len(labels) - 1)
    for one, other in draw(st.lists(st.tuples(places, places), max_size=6)):
        hashes[one] = hashes[other]
    for label in range(4):  # so that there are enough
        labels += [label] * 3
        groups += [f"own{label}{copy}" for copy in range(3)]
        hashes += [sha("own", label, copy) for copy in range(3)]
    return labels, groups, hashes


@settings(max_examples=60, deadline=None)
@given(group_sizes(), st.integers(0, 3))
def test_any_groups_stay_whole_and_no_single_move_brings_shares_nearer(
    images: tuple[list[int], list[Any], list[bytes]], seed: int
) -> None:
    labels, groups, hashes = images
    splits = assigned(labels, groups, hashes, seed=seed)
    for keys in (groups, hashes):
        of_key = defaultdict(set)
        for key, split in zip(keys, splits, strict=True):
            of_key[key].add(split)
        assert all(len(found) == 1 for key, found in of_key.items() if key is not None)
    distinct = {(h, label): split for h, label, split in zip(hashes, labels, splits, strict=True)}
    totals = Counter(label for _, label in distinct)
    held = Counter((split, label) for (_, label), split in distinct.items())
    assert all(held["train", label] for label in totals)
    # Of an image without a group or a copy it shows at once whether it should have moved.
    copies = Counter(hashes)
    in_train = {
        label: {h if g is None else g for h, g, lb in zip(hashes, groups, labels, strict=True)
                if lb == label and distinct[h, lb] == "train"}
        for label in totals
    }  # fmt: skip
    for image, group, label in zip(hashes, groups, labels, strict=True):
        if group is None and copies[image] == 1 and distinct[image, label] == "train":
            for split, share in SHARES.items():
                target, count = share * totals[label], held[split, label]
                nearer = abs(count + 1 - target) < abs(count - target) - 1e-9
                assert not nearer or len(in_train[label]) == 1
