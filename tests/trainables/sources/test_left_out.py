"""What file managers, photo programs, drives and archives leave among images."""

import pytest

from trainables.sources.folders import folder_source, scan
from trainables.sources.left_out import is_image_name, is_left_out, left_out_notes


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "__MACOSX", "._1.jpg", "Thumbs.db", "thumbs.DB", "desktop.ini", "Desktop.ini"),
        *(".thumbnails", "$RECYCLE.BIN", "$Recycle.Bin", "lost+found", ".picasaoriginals"),
        *(".Trash-1000", "System Volume Information", "#recycle", ".AppleDouble", "@Recycle"),
        *(".@__thumb", "Picasa.ini", "1.jpg@SynoEAStream", "1.jpg:Zone.Identifier", "ehthumbs.db"),
        *("Icon\r", "SYNOPHOTO_THUMB_M.jpg", "Network Trash Folder", "previews.lrdata", ".git"),
        *(".ipynb_checkpoints", ".DS_Store", "LOST.DIR", "_vti_cnf"),
    ],
)
def test_leftovers_and_hidden_names_are_left_out(name):
    assert is_left_out(name)


@pytest.mark.parametrize(
    "name", ["thumb", "thumbs", "recycle", "trash", "icon", "1.5", "-1", "found", "_", "@", "$5"]
)
def test_names_that_a_class_may_have_are_not(name):
    assert not is_left_out(name)


def test_images_are_known_by_their_names():
    assert is_image_name("a/b.JPG") and is_image_name("c.tif")
    assert not is_image_name("a.jpg/readme.md") and not is_image_name("jpg")


def touch(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return root


def test_leftovers_are_no_images_and_are_told_with_their_counts(tmp_path):
    touch(tmp_path, *(f"{name}/{number}.jpg" for name in "ab" for number in range(3)))
    touch(tmp_path, *(f"{name}/@eaDir/{number}.jpg/SYNO.jpg" for name in "ab" for number in "01"))
    touch(tmp_path, "a/Thumbs.db", "b/Thumbs.db", "a/._0.jpg", "__MACOSX/a/._0.jpg", ".DS_Store")
    touch(tmp_path, "lost+found/1.jpg", "$RECYCLE.BIN/1.jpg", "desktop.ini")
    source = folder_source(scan(tmp_path))
    assert source.classes == ("a", "b") and source.total == 6
    (note,) = source.notes
    assert note.startswith("Left out, as file managers, photo programs, drives and archives leave")
    for told in (
        *("@eaDir (2 folders)", "Thumbs.db (2 files)", "._* (1 file)", "__MACOSX (1 folder)"),
        *("lost+found (1 folder)", "$RECYCLE.BIN (1 folder)", "desktop.ini (1 file)"),
    ):
        assert told in note
    assert "DS_Store" not in note


@pytest.mark.parametrize("picture", [".5/1.jpg", ".5/deep/1.PNG"])
def test_a_hidden_folder_with_images_is_told(tmp_path, picture):
    touch(tmp_path, "-1/1.jpg", "1.5/1.jpg", picture, ".git/config", ".cache/x.bin")
    source = folder_source(scan(tmp_path))
    assert source.classes == ("-1", "1.5")
    (note,) = source.notes
    assert "hidden" in note and ".5/: rename" in note and "git" not in note


def test_hidden_images_are_told_by_some_of_their_names(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", *(f"a/.{number}.jpg" for number in range(7)))
    (note,) = folder_source(scan(tmp_path)).notes
    assert "a/.0.jpg, a/.1.jpg, a/.2.jpg, a/.3.jpg, a/.4.jpg and 2 more: rename" in note


def test_what_is_left_out_decides_on_the_listings_digest(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    before = scan(tmp_path).digest()
    touch(tmp_path, ".c/1.jpg")
    assert scan(tmp_path).digest() != before


def test_nothing_is_said_where_nothing_is_left_out():
    assert left_out_notes([]) == []
