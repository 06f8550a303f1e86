import hashlib
from collections import Counter
from pathlib import Path

import pytest

from trainables.errors import UserError
from trainables.sources.folders import folder_source, scan
from trainables.sources.splits import assign_splits, duplicate_notes


def touch(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return root


def found(root):
    source = folder_source(scan(root))
    return source, sorted((item.path, item.split, item.label) for item in source.items())


def test_class_folders(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/2.jpg", "a/deep/er/3.png", "a/.hidden", ".git/x", "readme.md")
    source, items = found(tmp_path)
    assert source.classes == ("a", "b")
    assert source.given == ("train",)
    assert source.total == 3
    assert items == [
        ("a/2.jpg", "train", 0),
        ("a/deep/er/3.png", "train", 0),
        ("b/1.jpg", "train", 1),
    ]
    assert source.notes == ("1 file(s) outside of the class folders are left out.",)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path, val):
    touch(tmp_path, "train/a/1", "train/b/1", f"{val}/a/2", f"{val}/b/2", "test/a/3", "test/b/3")
    source, items = found(tmp_path)
    assert source.given == ("train", "val", "test")
    assert (f"{val}/b/2", "val", 1) in items
    assert not source.notes


def test_a_class_may_be_called_train(tmp_path):
    source, _ = found(touch(tmp_path, "train/1.jpg", "car/1.jpg"))
    assert source.classes == ("car", "train")


def test_split_that_lacks_a_class_is_noted(tmp_path):
    source, _ = found(touch(tmp_path, "train/a/1", "train/b/1", "test/a/2"))
    assert source.notes == ("The test split lacks 1 class(es) of train: b.",)


def test_links_count_and_circles_end(tmp_path):
    real = touch(tmp_path / "real", "x/1.jpg")
    data = touch(tmp_path / "data", "a/1.jpg")
    (data / "b").symlink_to(real / "x")
    (data / "a" / "up").symlink_to(data)
    (data / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    source, items = found(data)
    assert ("b/1.jpg", "train", 1) in items
    broken = next(item for item in source.items() if item.path == "a/gone.jpg")
    assert broken.content is None
    assert "link" in broken.reason


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/1"], r"1 class folder\(s\) \(a\): .*at least two"),
        (["1.jpg"], r"0 class folder\(s\): put the images"),
        (["a/1", "b/1", "c/.hidden"], "c is empty: add images"),
        (["train/a/1", "train/b/1", "val/c/1"], r"val split .* train lacks \(c\)"),
        (["val/a/1", "val/b/1"], "no train/ folder"),
        (["train/a/1", "val/a/1", "valid/a/1"], "holds both val/ and valid/"),
        (["train/a/1", "test/a/1", "extra/a/1"], "extra/ beside te|extra/ beside tr"),
        (["train/a/1", "train/b/1", "extra/a/1"], "extra/ beside train/"),
    ],
)
def test_unclear_layouts_are_refused(tmp_path, paths, message):
    touch(tmp_path, *paths)
    with pytest.raises(UserError, match=message):
        folder_source(scan(tmp_path))


def test_missing_folder_and_wrong_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist: check"):
        scan(tmp_path / "nowhere")
    touch(tmp_path, "a.zip")
    with pytest.raises(UserError, match=r"a\.zip is a single file: give a folder"):
        scan(tmp_path / "a.zip")


def test_unreadable_folder(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("trainables.sources.folders.os.scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read .*Permission denied.*permissions"):
        scan(tmp_path)


def test_listing_digest_sees_names_sizes_times_and_settings(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    first = scan(tmp_path).digest(0)
    assert scan(tmp_path).digest(0) == first
    assert scan(tmp_path).digest(1) != first
    (tmp_path / "a/1.jpg").write_bytes(b"longer than it was")
    second = scan(tmp_path).digest(0)
    assert second != first
    (tmp_path / "c").mkdir()
    assert scan(tmp_path).digest(0) != second


def sha(*parts):
    return hashlib.sha256(repr(parts).encode()).digest()


def carved(labels, hashes, wanted=None, seed=0, splits=None):
    classes = [f"class{label}" for label in sorted(set(labels))]
    wanted = {"val": 0.15, "test": 0.15} if wanted is None else wanted
    return assign_splits(labels, hashes, splits or ["train"] * len(labels), classes, wanted, seed)


def test_carve_is_stratified():
    labels = [0] * 200 + [1] * 40 + [2] * 3
    hashes = [sha(number) for number in range(len(labels))]
    counts = Counter(zip(labels, carved(labels, hashes), strict=True))
    assert [counts[0, split] for split in ("train", "val", "test")] == [140, 30, 30]
    assert [counts[1, split] for split in ("train", "val", "test")] == [28, 6, 6]
    assert [counts[2, split] for split in ("train", "val", "test")] == [1, 1, 1]


def test_carve_depends_on_content_and_seed_only():
    labels = [number % 3 for number in range(90)]
    hashes = [sha(number) for number in range(90)]
    forward = dict(zip(hashes, carved(labels, hashes), strict=True))
    backward = dict(zip(hashes[::-1], carved(labels[::-1], hashes[::-1]), strict=True))
    assert forward == backward
    assert forward != dict(zip(hashes, carved(labels, hashes, seed=1), strict=True))


def test_equal_bytes_never_straddle_splits():
    # Each image three times in its class and, every other one, once more in the next class.
    labels, hashes = [], []
    for number in range(120):
        label = number % 4
        copies = [label] * 3 + [(label + 1) % 4] * (number % 2)
        labels += copies
        hashes += [sha(number)] * len(copies)
    splits_of: dict[bytes, set[str]] = {}
    for told, split in zip(hashes, carved(labels, hashes), strict=True):
        splits_of.setdefault(told, set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert len({split for splits in splits_of.values() for split in splits}) == 3


def test_given_splits_stay_and_do_not_leak_into_new_ones():
    shared = [sha("shared", number) for number in range(10)]
    own = [sha("own", number) for number in range(30)]
    hashes = shared + own + shared + [sha("other")]
    labels = [0] * 20 + [1] * 20 + [0] * 10 + [1]
    splits = ["train"] * 40 + ["val"] * 11
    result = carved(labels, hashes, {"test": 0.2}, splits=splits)
    assert result[40:] == ["val"] * 11
    assert result[:10] == ["train"] * 10
    assert result.count("test") == 8


def test_too_few_distinct_images():
    with pytest.raises(UserError, match=r"Class class1 has 2 distinct .* too few for 3 splits"):
        carved([0] * 9 + [1] * 4, [sha(n) for n in range(9)] + [sha("x"), sha("y")] * 2)


def test_a_class_keeps_a_training_image_where_others_chose_for_it():
    labels = [0] * 3 + [1] * 3
    hashes = [sha(n) for n in range(3)]
    of_first = dict(zip(hashes, carved(labels[:3], hashes), strict=True))
    taken = [told for told, split in of_first.items() if split != "train"]
    result = carved(labels, [*hashes, *taken, sha("own")])
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


DIGITS = Path(__file__).parents[4] / "shared/data/sign-digits"


@pytest.mark.skipif(not DIGITS.exists(), reason="the sign-digits photographs are not here")
def test_real_folder_is_found():
    source, items = found(DIGITS)
    assert source.classes == tuple("0123456789")
    assert source.total == len(items) == 2062
