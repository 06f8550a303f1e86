"""Class folders and split folders on the disk."""

from pathlib import Path

import pytest

from trainables.errors import UserError
from trainables.sources.folders import extra_folder_source, folder_source, scan


def touch(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return root


def read(root):
    source = folder_source(scan(root))
    return source, sorted((item.path, item.split, item.label) for item in source.items())


def test_class_folders(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/2.jpg", "a/deep/er/3.png", "a/.hidden", ".git/x", "readme.md")
    source, items = read(tmp_path)
    assert source.classes == ("a", "b")
    assert source.given_splits == ("train",)
    assert source.total == 3
    assert items == [
        ("a/2.jpg", "train", 0),
        ("a/deep/er/3.png", "train", 0),
        ("b/1.jpg", "train", 1),
    ]
    assert source.notes == ("1 file(s) outside of the class folders are left out, as readme.md.",)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path, val):
    touch(tmp_path, "train/a/1", "train/b/1", f"{val}/a/2", f"{val}/b/2", "test/a/3", "test/b/3")
    source, items = read(tmp_path)
    assert source.given_splits == ("train", "val", "test")
    assert (f"{val}/b/2", "val", 1) in items
    assert not source.notes


def test_a_class_may_be_called_train(tmp_path):
    source, _ = read(touch(tmp_path, "train/1.jpg", "car/1.jpg"))
    assert source.classes == ("car", "train")


def test_split_that_lacks_a_class_is_noted(tmp_path):
    source, _ = read(touch(tmp_path, "train/a/1", "train/b/1", "test/a/2"))
    assert source.notes == ("The test split lacks 1 class(es) of train: b.",)


def test_links_count_and_circles_end(tmp_path):
    real = touch(tmp_path / "real", "x/1.jpg")
    data = touch(tmp_path / "data", "a/1.jpg")
    (data / "b").symlink_to(real / "x")
    (data / "a" / "up").symlink_to(data)
    (data / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    source, items = read(data)
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


def test_extra_folders_have_the_labels_of_the_trained_classes(tmp_path):
    touch(tmp_path, "test/cat/1", "train/bee/2", "train/cat/3")
    source = extra_folder_source(scan(tmp_path), ("ant", "bee", "cat"))
    assert source.required_splits == source.given_splits == ("test",)
    items = {(item.path, item.split, item.label) for item in source.items()}
    assert items == {
        ("test/cat/1", "test", 2),
        ("train/bee/2", "test", 1),
        ("train/cat/3", "test", 2),
    }


DIGITS = Path(__file__).parents[4] / "shared/data/sign-digits"


@pytest.mark.skipif(not DIGITS.exists(), reason="the sign-digits photographs are not here")
def test_real_folder_is_read():
    source, items = read(DIGITS)
    assert source.classes == tuple("0123456789")
    assert source.total == len(items) == 2062
