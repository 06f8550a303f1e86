"""Recognise how class folders and split folders are laid out, or refuse what may mean several.

Classes may lie at the top (cat/1.jpg), below split folders of many names (train/cat/1.jpg,
seg_train/cat/1.jpg), or above them (cat/train/1.jpg).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainables.errors import UserError
from trainables.sources.left_out import is_image_name
from trainables.sources.listing import Listing
from trainables.sources.splits import SPLIT_WORDS, SPLITS, split_of_folder

# "folders" takes the folders at the top, or below train/, val/ and test/, for the classes, whatever
# lies in them or beside them.
LayoutChoice = Literal["auto", "folders", "tables"]

# Where all that lies below a split folder is one of these, its images have no labels.
UNLABELLED = ("unknown", "unlabeled", "unlabelled", "images", "imgs", "img", "pictures", "photos")
# Folders of a data set for detection or segmentation.
PARTS = frozenset(
    (
        *("images", "image", "imgs", "jpegimages", "pngimages", "masks", "mask", "labels"),
        *("annotations", "annotation", "segmentations", "segmentationclass", "gt"),
    )
)
MIN_SHARED = 2  # subfolders that all classes share, from which on they are no classes
MOSTLY_SHARED = 0.75  # of the subfolders of all, that a folder has on average
FOLDERS_ANYWAY = "or set `layout` folders if these are the classes"


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """Where the images of each split and class lie."""

    words: str
    """For the user: what was recognised."""
    places: dict[str, tuple[str, str]]
    """Relative folder -> split and class of all that lies below it."""
    notes: tuple[str, ...] = ()


def recognise(listing: Listing, choice: LayoutChoice = "auto") -> FolderLayout:
    """Recognise the layout of a listing's folders.

    Raises:
        UserError: it may mean several things, or the folders hold no classes.
    """
    tree = _Tree(listing)
    splits = _split_folders(tree, guess=choice == "auto")
    if splits:
        return _below_splits(tree, splits, guess=choice == "auto")
    if choice == "auto":
        _check_parts(tree)
        splits_of_class = _splits_below_classes(tree)
        if splits_of_class:
            return _class_first(splits_of_class)
        _check_classes(tree, "")
    return FolderLayout(
        words="class folders", places={name: ("train", name) for name in tree.children[""]}
    )


class _Tree:
    """The folders of a listing by the folder that they lie in, and the files directly in each."""

    def __init__(self, listing: Listing) -> None:
        self.root = listing.root
        self.children: dict[str, list[str]] = defaultdict(list)
        for path in listing.folders:
            parent, _, name = path.rpartition("/")
            self.children[parent].append(name)
        self.files: dict[str, int] = defaultdict(int)
        self.images: dict[str, int] = defaultdict(int)
        for entry in listing.files:
            parent = entry.path.rpartition("/")[0]
            self.files[parent] += 1
            self.images[parent] += is_image_name(entry.path)

    def holds_only_folders(self, folder: str) -> bool:
        return bool(self.children[folder]) and not self.images[folder]


def _join(*names: str) -> str:
    return "/".join(filter(None, names))


def _named(folders: Sequence[str], most: int = 2) -> str:
    """Name folders in a message: "train/ and test/"."""
    shown = [f"{name}/" for name in folders[:most]]
    return " and ".join(shown) + (", ..." if len(folders) > most else "")


# --- split folders above the classes ------------------------------------------------------------


def _split_folders(tree: _Tree, *, guess: bool) -> dict[str, str]:
    """Map each split to its folder at the top; empty where the folders there are the classes.

    Raises:
        UserError: two folders are named like one split, or others lie beside split folders.
    """
    top = tree.children[""]
    exact = [name for name in top if name.lower() in SPLIT_WORDS]
    speaking = [name for name in top if split_of_folder(name)] if guess else exact
    with_folders = [name for name in speaking if tree.children[name]]
    others = [name for name in top if name not in speaking]
    if exact:
        if len(speaking) > 1 and not with_folders and not others:
            if guess:
                raise _flat_splits(tree, speaking)
            return {}
        if len(top) > 1 and len(exact) == 1 and not with_folders:
            return {}  # "train" is a class here, among others
    elif not _are_splits(tree, speaking, with_folders, others):
        return {}
    return _by_split(tree, speaking, others)


def _are_splits(
    tree: _Tree, speaking: list[str], with_folders: list[str], others: list[str]
) -> bool:
    """Whether folders whose names speak of splits, though none is plainly called so, are splits.

    Raises:
        UserError: they are named like splits, but are not made like them.
    """
    named = {split_of_folder(name) for name in speaking}
    if not others and len(speaking) > 1 and "train" in named and not with_folders:
        if len(named) == len(speaking):
            raise _flat_splits(tree, speaking)
        return False
    if not others and with_folders:
        return len(speaking) == 1 or len(named) > 1
    holding = [name for name in with_folders if tree.holds_only_folders(name)]
    if _hold_the_same(tree, holding) or (
        holding and not any(tree.holds_only_folders(name) for name in others)
    ):
        raise UserError(
            f"{tree.root} holds {holding[0]}/, which is named like a split and has folders in it,"
            f" beside {others[0]}/: keep either split folders or class folders there,"
            f" {FOLDERS_ANYWAY}."
        )
    return False


def _hold_the_same(tree: _Tree, folders: Sequence[str]) -> bool:
    """Whether folders named like different splits, train among them, share a folder in them."""
    by_split = {str(split_of_folder(name)): name for name in folders}
    inner = [set(tree.children[_innermost(tree, *pair)]) for pair in by_split.items()]
    return "train" in by_split and len(inner) > 1 and bool(set.intersection(*inner))


def _flat_splits(tree: _Tree, folders: Sequence[str]) -> UserError:
    return UserError(
        f"{tree.root} holds {_named(folders, 3)}, named like splits, without class folders in them:"
        f" put the images of each class into a folder of its own there, {FOLDERS_ANYWAY}."
    )


def _by_split(tree: _Tree, speaking: list[str], others: list[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for folder in speaking:
        split = split_of_folder(folder) or SPLIT_WORDS[folder.lower()]
        if split in splits:
            raise UserError(
                f"{tree.root} holds both {splits[split]}/ and {folder}/: keep one of them."
            )
        splits[split] = folder
    if others:
        raise UserError(
            f"{tree.root} holds {others[0]}/ beside {speaking[0]}/: keep either split folders"
            " or class folders there."
        )
    return {split: splits[split] for split in SPLITS if split in splits}


def _below_splits(tree: _Tree, splits: dict[str, str], *, guess: bool) -> FolderLayout:
    if guess:
        splits = {split: _innermost(tree, split, folder) for split, folder in splits.items()}
    trained = set(tree.children[splits["train"]]) if "train" in splits else set()
    notes = []
    for split, folder in list(splits.items()):
        if split != "train" and "train" in splits and _is_unlabelled(tree, folder, trained):
            count = tree.files[folder] + sum(
                tree.files[_join(folder, name)] for name in tree.children[folder]
            )
            notes.append(
                f"The {split} split ({folder}/, {count} file(s)) has no class folders and is left"
                " out."
            )
            del splits[split]
    if guess:
        for folder in splits.values():
            _check_classes(tree, folder)
    told = (f"{folder}/ ({split})" for split, folder in splits.items())
    return FolderLayout(
        words=f"class folders below the split folders {', '.join(told)}",
        places={
            _join(folder, name): (split, name)
            for split, folder in splits.items()
            for name in tree.children[folder]
        },
        notes=tuple(notes),
    )


def _innermost(tree: _Tree, split: str, folder: str) -> str:
    """Go down where a split folder holds nothing but one of its own split: seg_train/seg_train."""
    inner = tree.children[folder]
    while len(inner) == 1 and not tree.images[folder] and split_of_folder(inner[0]) == split:
        if not tree.children[_join(folder, inner[0])]:
            break  # a class that is called so
        folder = _join(folder, inner[0])
        inner = tree.children[folder]
    return folder


def _is_unlabelled(tree: _Tree, folder: str, trained: set[str]) -> bool:
    """Whether the images of a split folder lie in no class folders."""
    inner = tree.children[folder]
    if not inner:
        return True
    (only, *more) = inner
    named_so = only.lower() in UNLABELLED or split_of_folder(only) is not None
    return not more and named_so and only not in trained and not tree.children[_join(folder, only)]


# --- split folders below the classes ------------------------------------------------------------


def _splits_below_classes(tree: _Tree) -> dict[str, dict[str, str]]:
    """Map each class to its split folders by their splits; empty where classes have none.

    Raises:
        UserError: some classes have split folders, and others have images elsewhere.
    """
    found: dict[str, dict[str, str]] = {}
    apart = ""
    for name in tree.children[""]:
        splits: dict[str, str] = {}
        for inner in tree.children[name]:
            splits.setdefault(split_of_folder(inner) or "", inner)
        is_split = "" not in splits and len(splits) == len(tree.children[name]) > 0
        if is_split and not tree.images[name]:
            found[name] = splits
        elif not apart or len(splits.keys() - {""}) > 1:
            apart = name
    several = {split for splits in found.values() for split in splits}
    if len(several) < 2 or len(tree.children[""]) < 2:
        return {}
    if apart:
        name, splits = next(iter(found.items()))
        raise UserError(
            f"{tree.root} holds {name}/ with {_named(list(splits.values()))} in it, which are named"
            f" like splits, and {apart}/ without: put the split folders above the class folders,"
            f" {FOLDERS_ANYWAY}."
        )
    return found


def _class_first(splits_of_class: dict[str, dict[str, str]]) -> FolderLayout:
    found = {split for splits in splits_of_class.values() for split in splits}
    in_order = [split for split in SPLITS if split in found]
    return FolderLayout(
        words=f"split folders ({', '.join(in_order)}) below the class folders",
        places={
            _join(name, splits[split]): (split, name)
            for split in in_order
            for name, splits in splits_of_class.items()
            if split in splits
        },
    )


# --- folders that are no classes ----------------------------------------------------------------


def _check_parts(tree: _Tree) -> None:
    """Refuse the parts of a data set for another task.

    Raises:
        UserError: there are no folders but such.
    """
    names = tree.children[""]
    if len(names) > 1 and all(name.lower() in PARTS for name in names):
        raise UserError(
            f"{tree.root} holds {_named(names, 3)}, as data for detection or segmentation does:"
            f" give a folder with the images of each class in a folder of its own,"
            f" {FOLDERS_ANYWAY}."
        )


def _check_classes(tree: _Tree, folder: str) -> None:
    """Refuse folders in the place of classes that all hold the same folders, or splits.

    Raises:
        UserError: they do, or there is one folder that holds the others.
    """
    names = tree.children[folder]
    where = tree.root / folder if folder else tree.root
    if len(names) == 1 and len(tree.children[_join(folder, names[0])]) > 1 and not folder:
        inner = tree.children[names[0]]
        raise UserError(
            f"{where} holds one folder, {names[0]}/, with {_named(inner)} in it: give"
            f" {where / names[0]} if these are the classes or the splits, {FOLDERS_ANYWAY}."
        )
    for name in names:
        inner = tree.children[_join(folder, name)]
        if len({SPLIT_WORDS[other.lower()] for other in inner if other.lower() in SPLIT_WORDS}) > 1:
            raise UserError(
                f"{where / name} is in the place of a class and holds {_named(inner, 3)}, which are"
                " named like splits: put split folders directly into the folder that you give,"
                f" {FOLDERS_ANYWAY}."
            )
    shared = _shared_folders(tree, folder)
    if shared:
        raise UserError(
            f"{where} holds {_named(names)} in the place of classes, with the same folders in them,"
            f" {_named(shared)}: name them train, val and test if they are splits, put"
            f" {_named(shared)} into {where} if these are the classes, {FOLDERS_ANYWAY}."
        )


def _shared_folders(tree: _Tree, folder: str) -> list[str]:
    """The folders that folders in the place of classes share; empty where they are classes."""
    names = tree.children[folder]
    inner = [set(tree.children[_join(folder, name)]) for name in names]
    if len(names) < 2 or not all(tree.holds_only_folders(_join(folder, name)) for name in names):
        return []
    union, common = set.union(*inner), set.intersection(*inner)
    coverage = sum(map(len, inner)) / (len(inner) * len(union))
    mostly = len(union) >= MIN_SHARED and coverage >= MOSTLY_SHARED
    return sorted(common or union) if len(common) >= MIN_SHARED or mostly else []
