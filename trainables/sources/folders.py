"""Find labelled images in class folders, and read classes and splits off the layout.

A listing of an object store is read in the same way as one of the disk.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError
from trainables.sources.listing import FileEntry, Listing, single_file
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLIT_WORDS, SPLITS
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
        files, folders = _walk(root)
    except FileNotFoundError as error:
        raise UserError(f"{data} does not exist: check the path to the images.") from error
    except OSError as error:
        raise UserError(
            f"{data} cannot be read ({error}): check the path and its permissions."
        ) from error
    return Listing(root=root, files=tuple(sorted(files)), folders=tuple(sorted(folders)))


def _walk(root: Path) -> tuple[list[FileEntry], list[str]]:
    """List files and folders below ``root``, hidden ones left out."""
    files: list[FileEntry] = []
    folders: list[str] = []
    waiting: list[tuple[str, frozenset[str]]] = [("", frozenset({str(root)}))]
    while waiting:
        prefix, above = waiting.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = prefix + entry.name
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
    return files, folders


def folder_source(listing: Listing) -> Source:
    """Read a listing as class folders, directly below the root or below split folders.

    Raises:
        UserError: there are no class folders, one class only, an empty class folder, a class that
            train lacks, or split folders that cannot be distinguished from class folders.
    """
    split_folders = _split_folders(listing)
    if "train" not in split_folders:
        given = next(iter(split_folders.values()))
        raise UserError(f"{listing.root} holds {given}/ but no train/ folder: add one.")
    in_splits = {split: _class_files(listing, path) for split, path in split_folders.items()}
    classes = tuple(sorted(in_splits["train"]))
    if len(classes) < 2:
        raise UserError(
            f"{listing.root / split_folders['train']} holds {len(classes)} class folder(s)"
            f"{' (' + classes[0] + ')' if classes else ''}: put the images of each class into a"
            " folder of its own, at least two."
        )
    notes = _missing_classes(listing.root, in_splits, classes)
    return _source(listing, in_splits, classes, notes)


def extra_folder_source(listing: Listing, trained: Sequence[str]) -> Source:
    """Read a listing as one set of images of classes that a model was trained on.

    Split folders, where there are some, are put together. Labels are positions in ``trained``.

    Raises:
        UserError: there are no class folders, an empty one, or one without a trained class's name.
    """
    by_class: FilesByClass = defaultdict(list)
    for folder in _split_folders(listing).values():
        for name, entries in _class_files(listing, folder).items():
            by_class[name] += entries
    if not by_class:
        raise UserError(
            f"{listing.root} holds no class folders: put the images of each class into a folder"
            " that bears its name."
        )
    check_trained(listing.root, by_class, trained)
    source = _source(listing, {"test": by_class}, tuple(trained), [])
    return replace(source, required_splits=("test",))


def check_trained(data: Path | RemotePath, names: Iterable[str], trained: Sequence[str]) -> None:
    """Refuse classes that a model was not trained on.

    Raises:
        UserError: ``names`` holds such classes.
    """
    unknown = sorted(set(names) - set(trained))
    if unknown:
        raise UserError(
            f"{data} has {len(unknown)} class(es) that were not trained on, as {unknown[0]}: class"
            f" folders and labels must bear the names of the trained classes, as {trained[0]}."
        )


def _source(
    listing: Listing, in_splits: dict[str, FilesByClass], classes: tuple[str, ...], notes: list[str]
) -> Source:
    labels = {name: label for label, name in enumerate(classes)}
    in_store = isinstance(listing.root, RemotePath)
    unreadable = "// in its name" if in_store else "not a regular file, or a broken link"
    items = [
        Item(
            path=entry.path,
            label=labels[name],
            split=split,
            content=listing.locate(entry) if entry.size >= 0 else None,
            reason="" if entry.size >= 0 else unreadable,
        )
        for split, by_class in in_splits.items()
        for name, entries in by_class.items()
        for entry in entries
    ]
    outside = len(listing.files) - len(items)
    if outside:
        notes.append(f"{outside} file(s) outside of the class folders are left out.")
    stride = max(1, len(items) // MAX_SAMPLE_ITEMS)
    return Source(
        classes=classes,
        total=len(items),
        given_splits=tuple(in_splits),
        notes=tuple(notes),
        items=lambda: iter(items),
        sample=lambda: iter(items[::stride]),
    )


def _split_folders(listing: Listing) -> dict[str, str]:
    """Map each split to the folder of its class folders: the root for train where there is none."""
    top = [folder for folder in listing.folders if "/" not in folder]
    split_named = [folder for folder in top if folder.lower() in SPLIT_WORDS]
    others = [folder for folder in top if folder not in split_named]
    splits: dict[str, str] = {}
    for folder in split_named:
        split = SPLIT_WORDS[folder.lower()]
        if split in splits:
            raise UserError(
                f"{listing.root} holds both {splits[split]}/ and {folder}/: keep one of them."
            )
        splits[split] = folder
    if not splits:
        return {"train": ""}
    if others and len(splits) == 1 and not _has_subfolders(listing, split_named[0]):
        return {"train": ""}  # "train" is a class here, among others
    if others:
        raise UserError(
            f"{listing.root} holds {others[0]}/ beside {split_named[0]}/: keep either split folders"
            " or class folders there."
        )
    return {split: splits[split] for split in SPLITS if split in splits}


def _has_subfolders(listing: Listing, folder: str) -> bool:
    return any(other.startswith(folder + "/") for other in listing.folders)


def _class_files(listing: Listing, folder: str) -> FilesByClass:
    """Map each class to the files at any depth below its folder.

    Raises:
        UserError: a class folder holds no files.
    """
    prefix = folder + "/" if folder else ""
    by_class: FilesByClass = {
        path.removeprefix(prefix): []
        for path in listing.folders
        if path.startswith(prefix) and "/" not in path.removeprefix(prefix)
    }
    for entry in listing.files:
        if entry.path.startswith(prefix):
            name, below, _ = entry.path.removeprefix(prefix).partition("/")
            if below and name:  # in a store, a name may begin with "/"
                by_class[name].append(entry)
    for name, entries in by_class.items():
        if not entries:
            raise UserError(
                f"The class folder {listing.root / prefix / name} is empty: add images or"
                " remove it."
            )
    return by_class


def _missing_classes(
    root: Path | RemotePath, in_splits: dict[str, FilesByClass], classes: Sequence[str]
) -> list[str]:
    """Write a sentence on each split that lacks classes of train.

    Raises:
        UserError: a split has a class that train lacks.
    """
    notes = []
    for split, by_class in in_splits.items():
        unknown = sorted(set(by_class) - set(classes))
        if unknown:
            raise UserError(
                f"The {split} split of {root} has a class that train lacks ({unknown[0]}): add it"
                " to train or remove it."
            )
        missing = sorted(set(classes) - set(by_class))
        if missing:
            more = ", ..." if len(missing) > MAX_CLASSES_NAMED else ""
            shown = ", ".join(missing[:MAX_CLASSES_NAMED]) + more
            notes.append(f"The {split} split lacks {len(missing)} class(es) of train: {shown}.")
    return notes
