"""Find labelled images in class folders, as :mod:`trainables.sources.layout` recognises them.

A listing of an object store is read in the same way as one of the disk.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError, printable
from trainables.sources.class_names import (
    ClassOrder,
    Spelling,
    case_notes,
    check_class_names,
    check_in_train,
    check_trained,
    in_order,
)
from trainables.sources.layout import FolderLayout, LayoutChoice, recognise
from trainables.sources.left_out import (
    holds_image,
    is_image_name,
    is_left_out,
    left_out_notes,
    leftover_name,
)
from trainables.sources.listing import FileEntry, Listing, single_file
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLITS
from trainables.storage.object_store import RemotePath

MAX_SAMPLE_ITEMS = 256  # about: every n-th image
MAX_CLASSES_NAMED = 5  # in a note

FilesByClass = dict[str, list[FileEntry]]


def scan(data: Path) -> Listing:
    """List a data folder without reading any file.

    Raises:
        UserError: it is missing or unreadable, or a single file that is no table.
    """
    try:
        root = data.resolve(strict=True)
        if root.is_file():
            status = root.stat()
            times = (status.st_mtime_ns, status.st_ctime_ns)
            return single_file(root, status.st_size, *times)
        files, folders, left_out = _walk(root)
    except FileNotFoundError as error:
        raise UserError(f"{data} does not exist: check the path to the images.") from error
    except OSError as error:
        raise UserError(
            f"{data} cannot be read ({error}): check the path and its permissions."
        ) from error
    return Listing(
        root=root,
        files=tuple(sorted(files)),
        folders=tuple(sorted(folders)),
        left_out=tuple(sorted(left_out)),
    )


def _walk(root: Path) -> tuple[list[FileEntry], list[str], list[str]]:
    """List files, folders, and what is left out and worth a word, below ``root``."""
    files: list[FileEntry] = []
    folders: list[str] = []
    left_out: list[str] = []
    waiting: list[tuple[str, frozenset[str]]] = [("", frozenset({str(root)}))]
    while waiting:
        prefix, above = waiting.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if is_left_out(entry.name):
                    left_out += _worth_a_word(path, entry)
                    continue
                if entry.is_dir():
                    # Links to folders are followed, but not to a folder above: it would not end.
                    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                    if real not in above:
                        folders.append(path)
                        waiting.append((path + "/", above | {real}))
                elif entry.is_file():
                    status = entry.stat()
                    times = (status.st_mtime_ns, status.st_ctime_ns)
                    files.append(FileEntry(path, status.st_size, *times))
                else:
                    files.append(FileEntry(path, -1, -1))
    return files, folders, left_out


def _worth_a_word(path: str, entry: os.DirEntry[str]) -> list[str]:
    """The path of what is left out, unless it is hidden and holds no images."""
    is_folder = entry.is_dir()
    shown = path + "/" * is_folder
    if leftover_name(entry.name):
        return [shown]
    is_image = holds_image(Path(entry.path)) if is_folder else is_image_name(entry.name)
    return [shown] if is_image else []


def folder_source(
    listing: Listing, layout: LayoutChoice = "auto", class_order: ClassOrder = "string"
) -> Source:
    """Read a listing as class folders, with split folders above or below them where there are some.

    Raises:
        UserError: there are no class folders, one class only, an empty class folder, a class that
            train lacks, names that look the same, or a layout that may mean several things.
    """
    found = recognise(listing, layout)
    in_splits = _class_files(listing, found)
    if in_splits and "train" not in in_splits:
        given = next(iter(found.places), "").partition("/")[0]
        raise UserError(f"{listing.root} holds {given}/ but no train/ folder: add one.")
    names = sorted(in_splits.get("train", ()))
    if len(names) < 2:
        where = next((path for path, (split, _) in found.places.items() if split == "train"), "")
        raise UserError(
            f"{listing.root / where.rpartition('/')[0]} holds {len(names)} class folder(s)"
            f"{' (' + names[0] + ')' if names else ''}: put the images of each class into a"
            " folder of its own, at least two."
        )
    for by_class in in_splits.values():
        check_class_names(listing.root, by_class)
    classes = in_order(listing.root, names, class_order)
    notes = [*_missing_classes(listing.root, in_splits, classes), *case_notes(classes)]
    return _source(listing, in_splits, classes, found, notes)


def extra_folder_source(
    listing: Listing, trained: Sequence[str], layout: LayoutChoice = "auto"
) -> Source:
    """Read a listing as one set of images of classes that a model was trained on.

    Split folders, where there are some, are put together. Labels are positions in ``trained``.

    Raises:
        UserError: there are no class folders, an empty one, or one without a trained class's name.
    """
    top = {folder for folder in listing.folders if "/" not in folder}
    if all(name in Spelling(trained) for name in top):
        layout = "folders"  # what lies in the folder of a trained class is of that class
    found = recognise(listing, layout)
    by_class: FilesByClass = {}
    for in_split in _class_files(listing, found).values():
        for name, entries in in_split.items():
            by_class.setdefault(name, []).extend(entries)
    if not by_class:
        raise UserError(
            f"{listing.root} holds no class folders: put the images of each class into a folder"
            " that bears its name."
        )
    check_trained(listing.root, by_class, trained)
    source = _source(listing, {"test": by_class}, tuple(trained), found, [])
    return replace(source, required_splits=("test",))


def _source(
    listing: Listing,
    in_splits: dict[str, FilesByClass],
    classes: tuple[str, ...],
    found: FolderLayout,
    notes: list[str],
) -> Source:
    spelling = Spelling(classes)
    in_store = isinstance(listing.root, RemotePath)
    unreadable = "// in its name" if in_store else "not a regular file, or a broken link"
    items = []
    for split, by_class in in_splits.items():
        for name, entries in by_class.items():
            label = spelling.label(name)
            assert label is not None, "classes are checked before"
            items += [
                Item(
                    path=entry.path,
                    label=label,
                    split=split,
                    content=listing.locate(entry) if entry.size >= 0 else None,
                    reason="" if entry.size >= 0 else unreadable,
                )
                for entry in entries
            ]
    stride = max(1, len(items) // MAX_SAMPLE_ITEMS)
    return Source(
        classes=classes,
        total=len(items),
        given_splits=tuple(in_splits),
        layout=found.words,
        notes=(
            *notes,
            *found.notes,
            *_copies(listing, found),
            *_outside(listing, items),
            *left_out_notes(listing.left_out),
        ),
        items=lambda: iter(items),
        sample=lambda: iter(items[::stride]),
    )


def _copies(listing: Listing, found: FolderLayout) -> list[str]:
    """Write a sentence on folders whose images are called as those in the folder above them."""
    names: dict[str, set[str]] = {}
    for entry in listing.files:
        folder, _, name = entry.path.rpartition("/")
        if is_image_name(name):
            names.setdefault(folder, set()).add(name.rpartition(".")[0].lower())
    copies, count = [], 0
    for folder, own in sorted(names.items()):
        shared = own & names.get(folder.rpartition("/")[0], set())
        if folder not in found.places and 2 * len(shared) >= len(own):
            copies.append(folder)
            count += len(shared)
    if not copies:
        return []
    return [
        f"{count} image(s) in {len(copies)} folder(s), as {printable(copies[0])}/, are called as"
        " images in the folder above, as thumbnails and other copies are: they are taken as images"
        " of their own, and may be in another split."
    ]


def _outside(listing: Listing, items: Sequence[Item]) -> list[str]:
    """Write a sentence on files that lie in no class folder, where there are some."""
    count = len(listing.files) - len(items)
    if not count:
        return []
    inside = {item.path for item in items}
    example = next(entry.path for entry in listing.files if entry.path not in inside)
    return [f"{count} file(s) outside of the class folders are left out, as {printable(example)}."]


def _class_files(listing: Listing, found: FolderLayout) -> dict[str, FilesByClass]:
    """Map each split and class to the files at any depth below its folder.

    Raises:
        UserError: a class folder holds no files.
    """
    in_splits: dict[str, FilesByClass] = {}
    files_of: dict[str, list[FileEntry]] = {}
    for path, (split, name) in found.places.items():
        files_of[path] = in_splits.setdefault(split, {}).setdefault(name, [])
    depths = sorted({path.count("/") + 1 for path in files_of})
    for entry in listing.files:
        parts = entry.path.split("/")
        for depth in depths:
            above = "/".join(parts[:depth])
            if depth < len(parts) and above in files_of:
                files_of[above].append(entry)
    for path, entries in files_of.items():
        if not entries:
            raise UserError(
                f"The class folder {listing.root / path} is empty: add images or remove it."
            )
    return {split: in_splits[split] for split in SPLITS if split in in_splits}


def _missing_classes(
    root: Path | RemotePath, in_splits: dict[str, FilesByClass], classes: Sequence[str]
) -> list[str]:
    """Write a sentence on each split that lacks classes of train.

    Raises:
        UserError: a split has a class that train lacks.
    """
    notes = []
    spelling = Spelling(classes)
    for split, by_class in in_splits.items():
        check_in_train(root, split, by_class, classes)
        present = {spelling.label(name) for name in by_class}
        missing = sorted(name for label, name in enumerate(classes) if label not in present)
        if missing:
            more = ", ..." if len(missing) > MAX_CLASSES_NAMED else ""
            shown = ", ".join(missing[:MAX_CLASSES_NAMED]) + more
            notes.append(f"The {split} split lacks {len(missing)} class(es) of train: {shown}.")
    return notes
