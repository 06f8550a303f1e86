"""Names of classes: checked, compared as they are read, put in order."""

import unicodedata
from pathlib import Path

import pytest
from timm.utils.misc import natural_key as timms_key

from tests.factories import is_one_sentence
from trainables.errors import UserError
from trainables.sources.class_names import (
    Spelling,
    check_class_names,
    check_in_train,
    check_trained,
    in_order,
    natural_key,
    read_class_order,
)
from trainables.sources.folders import extra_folder_source, folder_source, scan

D = Path("d")
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "name", ["a\nb", "a\rb", "\x00", "a\x1cb", "a\x85b", "a\u2028b", "a\u2029", "a\tb", "", "  "]
)
def test_names_that_break_a_list_of_labels_are_refused(name):
    with pytest.raises(UserError, match=r"^d has a class with .*name") as caught:
        check_class_names(D, ["a", name])
    assert is_one_sentence(str(caught.value))


def test_ordinary_names_of_any_language_pass():
    check_class_names(D, ["a", "A", "b c", "café", "猫", "1", "-1", ".5", "c++", "x/y", "👍🏽"])


@pytest.mark.parametrize("names", [(NFC, NFD), ("cat", "cat "), ("\u212bngstrom", "Ångstrom")])
def test_two_classes_that_look_the_same_are_refused(names):
    with pytest.raises(UserError, match=r"look the same, .*: they differ only") as caught:
        check_class_names(D, ["a", *names])
    assert str(caught.value).isascii()  # so that one sees what differs


def test_classes_that_differ_in_case_only_are_told(tmp_path):
    source = folder_source(pictures(tmp_path, "Cat", "cat", "dog"))
    assert source.classes == ("Cat", "cat", "dog")
    assert source.notes == (
        "1 class(es) have a twin whose name differs only in upper and lower case, as Cat and cat:"
        " they are two classes.",
    )


def test_a_class_is_found_however_its_letters_are_composed():
    spelling = Spelling(("a", NFD))
    assert [spelling.label(name) for name in (NFD, NFC, "a", "b")] == [1, 1, 0, None]
    check_in_train(D, "val", [NFC], ["a", NFD])
    check_trained(D, [NFC], ["a", NFD])
    with pytest.raises(UserError, match=r"The val split of d has a class that train lacks \(b\)"):
        check_in_train(D, "val", [NFC, "b"], ["a", NFD])


def test_classes_that_were_not_trained_on_are_refused():
    check_trained(D, ["a", "b"], ["a", "b", "c"])
    with pytest.raises(UserError, match=r"d has 2 class\(es\) .* as x: .* classes, as a\."):
        check_trained(D, ["x", "a", "y"], ["a", "b"])


def pictures(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "1.jpg").write_bytes(folder.encode())
    return scan(root)


def test_folders_that_are_composed_otherwise_are_one_class_across_splits(tmp_path):
    listing = pictures(tmp_path, f"train/{NFC}", "train/tea", f"val/{NFD}", "val/tea")
    source = folder_source(listing)
    assert source.classes == (NFC, "tea") and source.given_splits == ("train", "val")
    assert sorted((item.split, item.label) for item in source.items()) == [
        ("train", 0), ("train", 1), ("val", 0), ("val", 1)
    ]  # fmt: skip
    further = extra_folder_source(pictures(tmp_path / "more", NFD), source.classes)
    assert [item.label for item in further.items()] == [0]


def test_folders_that_look_the_same_or_break_a_line_are_refused(tmp_path):
    with pytest.raises(UserError, match="look the same"):
        folder_source(pictures(tmp_path / "1", NFC, NFD))
    with pytest.raises(UserError, match="line break"):
        folder_source(pictures(tmp_path / "2", "a\nb", "c"))


def test_natural_order_is_timms():
    names = ["10", "9", "b2", "B10", "a", "img12a3", "img2b", "A1", "", "x007", "x07y"]
    assert sorted(names, key=natural_key) == sorted(names, key=timms_key)
    assert in_order(D, ["0", "1", "10", "11", "2"], "natural") == ("0", "1", "2", "10", "11")
    assert in_order(D, ["0", "1", "10", "2"], "string") == ("0", "1", "10", "2")


def test_a_given_order_is_followed_in_the_spelling_of_the_images():
    assert in_order(D, ["a", "b", NFD], (NFC, "b", "a")) == (NFD, "b", "a")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("a", "b", "c", "x"), r"names 1 class\(es\) that d lacks, as x: give"),
        (("a", "c"), r"lacks 1 class\(es\) of d, as b: give"),
    ],
)
def test_an_order_of_other_classes_is_refused(order, message):
    with pytest.raises(UserError, match=rf"^The file of `class_order` {message}"):
        in_order(D, ["a", "b", "c"], order)


def test_an_order_is_read_from_a_file(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffzebra\r\nb c\ncafé\n\n".encode())
    assert read_class_order(file) == ("zebra", "b c", "café")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .*: give natural, string, or a file"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", r"names 0 class\(es\): give"),
        (b"a\n", r"names 1 class\(es\): give"),
        (b"a\nb\na\n", "names a twice: give each class once"),
    ],
)
def test_a_file_that_gives_no_order_is_refused(tmp_path, content, message):
    file = tmp_path / "order.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^`class_order` \S*order\.txt {message}"):
        read_class_order(file)
