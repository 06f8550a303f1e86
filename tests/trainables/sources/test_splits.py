"""Images that are moved from train into the splits that the data came without."""

import hashlib
from collections import Counter

import pytest

from trainables.errors import UserError
from trainables.sources.splits import assign_splits, duplicate_notes


def sha(*parts):
    return hashlib.sha256(repr(parts).encode()).digest()


def assigned(labels, hashes, shares=None, seed=0, splits=None):
    classes = [f"class{label}" for label in sorted(set(labels))]
    shares = {"val": 0.15, "test": 0.15} if shares is None else shares
    return assign_splits(labels, hashes, splits or ["train"] * len(labels), classes, shares, seed)


def test_each_class_is_divided_by_the_shares():
    labels = [0] * 200 + [1] * 40 + [2] * 3
    hashes = [sha(number) for number in range(len(labels))]
    counts = Counter(zip(labels, assigned(labels, hashes), strict=True))
    assert [counts[0, split] for split in ("train", "val", "test")] == [140, 30, 30]
    assert [counts[1, split] for split in ("train", "val", "test")] == [28, 6, 6]
    assert [counts[2, split] for split in ("train", "val", "test")] == [1, 1, 1]


def test_splits_depend_on_content_and_seed_only():
    labels = [number % 3 for number in range(90)]
    hashes = [sha(number) for number in range(90)]
    forward = dict(zip(hashes, assigned(labels, hashes), strict=True))
    backward = dict(zip(hashes[::-1], assigned(labels[::-1], hashes[::-1]), strict=True))
    assert forward == backward
    assert forward != dict(zip(hashes, assigned(labels, hashes, seed=1), strict=True))


def test_equal_bytes_never_straddle_splits():
    # Each image three times in its class and, every other one, once more in the next class.
    labels, hashes = [], []
    for number in range(120):
        label = number % 4
        copies = [label] * 3 + [(label + 1) % 4] * (number % 2)
        labels += copies
        hashes += [sha(number)] * len(copies)
    splits_of: dict[bytes, set[str]] = {}
    for image, split in zip(hashes, assigned(labels, hashes), strict=True):
        splits_of.setdefault(image, set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert len({split for splits in splits_of.values() for split in splits}) == 3


def test_given_splits_stay_and_do_not_leak_into_new_ones():
    shared = [sha("shared", number) for number in range(10)]
    own = [sha("own", number) for number in range(30)]
    hashes = shared + own + shared + [sha("other")]
    labels = [0] * 20 + [1] * 20 + [0] * 10 + [1]
    splits = ["train"] * 40 + ["val"] * 11
    result = assigned(labels, hashes, {"test": 0.2}, splits=splits)
    assert result[40:] == ["val"] * 11
    assert result[:10] == ["train"] * 10
    assert result.count("test") == 8


def test_too_few_distinct_images():
    with pytest.raises(UserError, match=r"Class class1 has 2 distinct .* too few for 3 splits"):
        assigned([0] * 9 + [1] * 4, [sha(n) for n in range(9)] + [sha("x"), sha("y")] * 2)


def test_a_class_keeps_a_training_image_where_others_chose_for_it():
    labels = [0] * 3 + [1] * 3
    hashes = [sha(n) for n in range(3)]
    of_first = dict(zip(hashes, assigned(labels[:3], hashes), strict=True))
    taken = [image for image, split in of_first.items() if split != "train"]
    result = assigned(labels, [*hashes, *taken, sha("own")])
    assert result[5] == "train"


def test_duplicate_notes():
    a, b, c = sha("a"), sha("b"), sha("c")
    notes = duplicate_notes(
        [0, 0, 0, 1, 0], [a, b, a, a, c], ["train", "train", "val", "test", "test"]
    )
    assert notes == [
        "1 image(s) of val are also in train, byte for byte.",
        "1 image(s) of test are also in val, byte for byte.",
        "1 image(s) of test are also in train, byte for byte.",
        "1 image(s) occur in more than one class, byte for byte.",
    ]
    assert duplicate_notes([0, 1], [a, b], ["train", "val"]) == []


def test_images_that_all_have_several_classes_leave_none_to_train_on():
    hashes = [sha(n) for n in range(3)]
    splits = assigned([0] * 3, hashes)
    elsewhere = [image for image, split in zip(hashes, splits, strict=True) if split != "train"]
    with pytest.raises(UserError, match="All images of class class1 are also in other classes"):
        assigned([0] * 3 + [1] * 2, [*hashes, *elsewhere], shares={"val": 0.5})
