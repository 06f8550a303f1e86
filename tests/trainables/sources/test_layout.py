"""Layouts of class folders and split folders: recognised, or refused with what to do."""

import pytest

from tests.factories import is_one_sentence
from trainables.errors import UserError
from trainables.sources.folders import extra_folder_source, folder_source, scan

TRAIN_TEST = ("train", "test")


def make(root, *paths):
    """Files; a path without a suffix gets two pictures below it."""
    for path in paths:
        for name in (path,) if "." in path else (f"{path}/1.jpg", f"{path}/2.jpg"):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(name.encode())
    return scan(root)


def read(listing, layout="auto"):
    """The source, and the class and split of each folder of images."""
    source = folder_source(listing, layout)
    found = {
        (item.path.rpartition("/")[0], source.classes[item.label], item.split)
        for item in source.items()
    }
    return source, found


@pytest.mark.parametrize(
    "names",
    [
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train_set", "valid_set", "test_set"),
        ("train_images", "test_images"),
        ("TrainingSet", "TestingSet"),
        ("Training", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("train2017", "val2017"),
        ("trainset", "testset"),
        ("images-train", "images-val"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("train", "dev_set", "test"),
        ("Train Data",),
    ],
)
def test_split_folders_are_known_by_many_names(tmp_path, names):
    listing = make(tmp_path, *(f"{name}/{kind}" for name in names for kind in ("cat", "dog")))
    source, found = read(listing)
    assert source.classes == ("cat", "dog") and not source.notes
    for name in names:
        word = name.lower()
        split = "test" if "test" in word else "val" if "va" in word or "dev" in word else "train"
        assert (f"{name}/cat", "cat", split) in found
        assert f"{name}/ ({split})" in source.layout


def test_split_folders_within_split_folders(tmp_path):
    inner = [f"seg_{s}/seg_{s}/{kind}" for s in TRAIN_TEST for kind in ("sea", "street")]
    source, found = read(make(tmp_path, *inner))
    assert source.classes == ("sea", "street")
    assert ("seg_test/seg_test/sea", "sea", "test") in found
    assert "seg_train/seg_train/ (train)" in source.layout


@pytest.mark.parametrize(
    "inner", [TRAIN_TEST, ("train", "val", "test"), ("training_set", "test_set"), ("Train", "Val")]
)
def test_split_folders_below_classes_are_given_splits(tmp_path, inner):
    listing = make(tmp_path, *(f"{kind}/{name}" for kind in ("cat", "dog") for name in inner))
    source, found = read(listing)
    assert source.classes == ("cat", "dog") and len(source.given_splits) == len(inner)
    assert (f"dog/{inner[0]}", "dog", "train") in found
    assert (f"dog/{inner[-1]}", "dog", source.given_splits[-1]) in found
    assert source.layout.endswith("below the class folders")


@pytest.mark.parametrize(
    "classes",
    [
        ("bullet_train", "car", "plane"),
        ("train", "car"),
        ("test_tube", "bullet_train", "steam_train"),
        ("trains", "buses"),
        ("vehicle/train", "vehicle/car", "animal/cat", "animal/dog"),
        ("n01/images", "n02/images"),
        ("dog/beagle", "dog/poodle", "cat/tabby", "cat/siamese"),
        ("red/left", "red/right", "blue"),
    ],
)
def test_classes_stay_classes(tmp_path, classes):
    source, _ = read(make(tmp_path, *classes))
    assert source.classes == tuple(sorted({path.split("/")[0] for path in classes}))
    assert source.given_splits == ("train",) and source.layout == "class folders"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["training_set", "test_set"], "named like splits, without class folders"),
        (["train", "test"], "named like splits, without class folders"),
        (["train", "test_set"], "named like splits, without class folders"),
        (
            ["2020/cat", "2020/dog", "2021/cat", "2021/dog"],
            "same folders in them, cat/ and dog",
        ),
        (["f0/a", "f0/b", "f0/c", "f1/a", "f1/b", "f2/b", "f2/c", "f2/a"], "the same folders"),
        (["train/0/a", "train/0/b", "train/1/a", "train/1/b"], r"train holds 0/ and 1/ .* same"),
        (["train_images/cat", "train_images/dog", "sample"], "train_images/, .* beside sample/"),
        (["training_set/a", "training_set/b", "single"], "training_set/, .* beside single/"),
        (
            ["seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "p/p"],
            "seg_test/, .* beside p/",
        ),
        (["cat/train", "cat/test", "dog"], r"holds cat/ with test/ and train/ .* dog/ without"),
        (["cat/train", "cat/test", "dog/train", "dog/test", "dog/1.jpg"], "and dog/ without"),
        (["archive/train/a", "archive/train/b", "archive/test/a"], "one folder, archive/, with te"),
        (["a/x/1", "b/x/1/train", "b/x/1/test", "a/train", "a/test", "a/more"], "a is in the pl"),
        (["images", "masks"], "as data for detection or segmentation does"),
        (["images/train", "images/val", "labels/train/1.txt", "labels/val/1.txt"], "detection"),
        (["train_a/x", "train_b/x", "test_a/x"], "holds both train_a/ and train_b/"),
        (["val_images/a", "val_images/b"], "no train/ folder"),
    ],
)
def test_what_may_mean_several_things_is_refused(tmp_path, paths, message):
    listing = make(tmp_path, *paths)
    with pytest.raises(UserError, match=message) as caught:
        folder_source(listing)
    assert is_one_sentence(str(caught.value).replace("...", ""))


def test_a_layout_that_is_refused_can_be_asked_for(tmp_path):
    listing = make(tmp_path, *(f"{kind}/{side}" for kind in ("cat", "dog") for side in ("l", "r")))
    with pytest.raises(UserError, match="`layout` folders"):
        folder_source(listing)
    source, found = read(listing, "folders")
    assert source.classes == ("cat", "dog") and ("dog/l", "dog", "train") in found
    flat = folder_source(make(tmp_path / "flat", "train", "test"), "folders")
    assert flat.classes == ("test", "train") and flat.given_splits == ("train",)
    inner = make(tmp_path / "more", "cat/train", "cat/test", "dog/train", "dog/test")
    assert folder_source(inner, "folders").given_splits == ("train",)


def test_folders_of_copies_are_told(tmp_path):
    paths = [f"{kind}/{path}" for kind in ("a", "b") for path in ("1.png", "2.png", "3.png")]
    thumbnails = [f"{kind}/small/{path}" for kind in ("a", "b") for path in ("1.jpg", "2.jpg")]
    (note,) = folder_source(make(tmp_path, *paths, *thumbnails, "a/more/7.png")).notes
    assert note.startswith("4 image(s) in 2 folder(s), as a/small/, are called as images in the")
    assert not folder_source(make(tmp_path / "two", *paths, "a/more/7.png")).notes


@pytest.mark.parametrize("inner", ["", "unknown/", "test/", "images/"])
def test_a_split_without_labels_is_left_out_with_a_note(tmp_path, inner):
    listing = make(tmp_path, "train/a", "train/b", *(f"test/{inner}{n}.jpg" for n in range(10)))
    source = folder_source(listing)
    assert source.given_splits == ("train",) and source.total == 4
    assert source.notes[0] == (
        "The test split (test/, 10 file(s)) has no class folders and is left out."
    )


def test_a_class_of_one_folder_in_a_split_is_no_unlabelled_split(tmp_path):
    _, found = read(make(tmp_path, "train/images", "train/b", "test/images"))
    assert ("test/images", "images", "test") in found
    with pytest.raises(UserError, match=r"test split .* train lacks \(c\)"):
        folder_source(make(tmp_path / "more", "train/a", "train/b", "test/c"))


def test_a_further_set_may_have_its_split_folders_anywhere(tmp_path):
    below = make(tmp_path / "1", "cat/train", "cat/test", "dog/train", "dog/test")
    above = make(tmp_path / "2", "seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog")
    for listing in (below, above):
        items = list(extra_folder_source(listing, ("cat", "dog", "fox")).items())
        assert sorted(item.label for item in items) == [0] * 4 + [1] * 4
