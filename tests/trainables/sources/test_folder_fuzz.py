"""In a tree of any names, each file is in one split and class, told as left out, or all refused."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainables.errors import UserError, printable
from trainables.sources.folders import folder_source, scan
from trainables.sources.left_out import is_image_name, is_left_out, leftover_name
from trainables.sources.source import Source
from trainables.sources.splits import split_of_folder

SPLIT_FOLDERS = ("train", "val", "test", "Train", "seg_train", "test_set", "valid2", "trainval")
CLASSES = (
    "cat",
    "dog",
    "2",
    "10",
    "Cat",
    "caf\u00e9",
    "cafe\u0301",
    "a b",
    "-1",
    "b\udce9",
    "x\ny",
)
OTHERS = (
    "x\ny",
    "images",
    "masks",
    "unknown",
    "train 1",
    ".5",
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "...",
)
FILES = (
    *("1.jpg", "2.png", "3.JPEG", "notes.txt", "noname", "caf\udce9.jpg", "a\nb.png", "-.gif"),
    *("._1.jpg", ".hidden.png", ".hidden", "Thumbs.db", "desktop.ini", "labels.csv"),
)
FOLDER = st.one_of(*map(st.sampled_from, (SPLIT_FOLDERS, CLASSES, CLASSES, OTHERS)))


@st.composite
def trees(draw: st.DrawFn) -> list[str]:
    """Paths of files: as data is laid out, mostly, and some that are anywhere."""
    classes = draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True))
    names = draw(
        st.sampled_from((("train", "val"), ("Train", "test_set"), ("seg_train", "valid2")))
    )
    layout = draw(st.sampled_from(("classes", "splits first", "classes first", "anything")))
    paths: list[tuple[str, ...]] = []
    if layout == "classes":
        paths = [(name, "1.jpg") for name in classes]
    elif layout == "splits first":
        paths = [(split, name, "1.jpg") for split in names for name in classes]
    elif layout == "classes first":
        paths = [(name, split, "1.jpg") for split in names for name in classes]
    folders = st.sampled_from([path[:-1] for path in paths]) if paths else st.just(())
    files = st.sampled_from(FILES)
    below = st.lists(FOLDER, max_size=1 if layout != "anything" else 3)
    more = st.builds(lambda above, rest, file: (*above, *rest, file), folders, below, files)
    paths += draw(st.lists(more, max_size=8))
    odd = st.builds(lambda above, file: (*above, file), st.lists(FOLDER, max_size=3), files)
    paths += draw(st.lists(odd, max_size=draw(st.sampled_from((0, 0, 1, 3)))))
    return sorted({"/".join(path) for path in paths})


def files_on_disk(root: Path) -> Iterator[str]:
    for above, _, names in os.walk(root):
        for name in names:
            yield os.path.relpath(os.path.join(above, name), root)


def told(pattern: str, notes: tuple[str, ...]) -> int:
    """The numbers of files that notes tell by the pattern, added up."""
    return sum(int(number) for note in notes for number in re.findall(pattern, note, re.DOTALL))


def spelled(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def check(source: Source, files: list[str]) -> None:
    items, notes = list(source.items()), source.notes
    assert len({item.path for item in items}) == len(items) == source.total
    hidden = [path for path in files if any(map(is_left_out, path.split("/")))]
    assert {item.path for item in items} <= set(files) - set(hidden)
    outside = told(r"^(\d+) file\(s\) outside of the class folders", notes)
    unlabelled = told(r"^The .* split \(.*, (\d+) file\(s\)\) has no class folders", notes)
    assert len(items) + outside + unlabelled == len(files) - len(hidden)
    for item in items:
        above = item.path.split("/")[:-1]
        assert spelled(source.classes[item.label]) in map(spelled, above)
        assert item.split == "train" or item.split in map(split_of_folder, above)
    for path in hidden:
        parts = path.split("/")
        first = next(part for part in parts if is_left_out(part))
        if leftover_name(first) or is_image_name(path):
            shown = leftover_name(first) or ""
            words = shown if "*" in shown else printable(first)
            assert any(words.strip() in note or " more" in note for note in notes)


BOUNDED = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=200)


@BOUNDED
@given(trees(), st.sampled_from(("auto", "auto", "folders")))
def test_every_file_is_read_told_or_the_tree_refused(files: list[str], layout: str) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        for path in files:
            target = root / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue  # a file and a folder of one name
        refusal = ""
        try:
            source = folder_source(scan(root), "folders" if layout == "folders" else "auto")
        except UserError as error:
            refusal = str(error)
        if refusal:
            assert refusal.endswith(".") and len(refusal) > 20
        else:
            check(source, list(files_on_disk(root)))
    finally:
        shutil.rmtree(root)
