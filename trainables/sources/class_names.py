"""Check the names of classes, compare them as people read them, and put them in order."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from trainables.errors import UserError
from trainables.storage.object_store import RemotePath

MAX_ORDER_FILE_BYTES = 10 * 2**20

# How classes are ordered: as strings (a table's own names in its own order), as timm orders
# folders, or in the order of these names.
ClassOrder = Literal["string", "natural"] | tuple[str, ...]


def check_class_names(data: Path | RemotePath, names: Iterable[str]) -> None:
    """Refuse class names that no list of labels can hold, and such as look the same.

    Raises:
        UserError: a name is empty or has a line break or another control character, or two of them
            differ only in how Unicode composes their letters, or in blanks around them.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise UserError(f"{data} has a class with the empty name {name!r}: give it a name.")
        if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
            raise UserError(
                f"{data} has a class with a line break or another control character in its name,"
                f" {name!r}: rename it, as a list of labels has one on each line."
            )
        twin = seen.setdefault(plain_name(name), name)
        if twin != name:
            raise UserError(
                f"{data} has two classes that look the same, {twin!a} and {name!a}: they"
                " differ only in how letters are composed (Unicode NFC and NFD) or in blanks"
                " around them; give them one name."
            )


def case_notes(names: Iterable[str]) -> list[str]:
    """Write a sentence on classes whose names differ only in upper and lower case."""
    of_plain: dict[str, list[str]] = {}
    for name in names:
        of_plain.setdefault(plain_name(name).casefold(), []).append(name)
    twins = [same for same in of_plain.values() if len(same) > 1]
    if not twins:
        return []
    return [
        f"{len(twins)} class(es) have a twin whose name differs only in upper and lower case, as"
        f" {' and '.join(twins[0])}: they are two classes."
    ]


def plain_name(name: str) -> str:
    """Write a name as it is compared: composed letters (NFC), no blanks around it."""
    return unicodedata.normalize("NFC", name).strip()


class Spelling:
    """The trained classes, found by names that may be composed otherwise (NFC and NFD)."""

    def __init__(self, trained: Sequence[str]) -> None:
        self._labels = {plain_name(name): label for label, name in enumerate(trained)}
        self._labels |= {name: label for label, name in enumerate(trained)}
        self.trained = trained

    def __contains__(self, name: object) -> bool:
        return self.label(str(name)) is not None

    def label(self, name: str) -> int | None:
        """The position of the class; None: it is not among them."""
        label = self._labels.get(name)
        return self._labels.get(plain_name(name)) if label is None else label


def _unknown(names: Iterable[str], trained: Sequence[str]) -> list[str]:
    known = Spelling(trained)
    return sorted(name for name in set(names) if name not in known)


def check_trained(data: Path | RemotePath, names: Iterable[str], trained: Sequence[str]) -> None:
    """Refuse classes that a model was not trained on.

    Raises:
        UserError: ``names`` holds such classes.
    """
    unknown = _unknown(names, trained)
    if unknown:
        raise UserError(
            f"{data} has {len(unknown)} class(es) that were not trained on, as {unknown[0]}: class"
            f" folders and labels must bear the names of the trained classes, as {trained[0]}."
        )


def check_in_train(
    data: Path | RemotePath, split: str, names: Iterable[str], trained: Sequence[str]
) -> None:
    """Refuse classes of a split that train lacks.

    Raises:
        UserError: there is one.
    """
    unknown = _unknown(names, trained)
    if unknown:
        raise UserError(
            f"The {split} split of {data} has a class that train lacks ({unknown[0]}): add it"
            " to train or remove it."
        )


def natural_key(name: str) -> list[Any]:
    """Sort "2" before "10", and without regard to case, as timm orders class folders."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]


def in_order(data: Path | RemotePath, names: Sequence[str], order: ClassOrder) -> tuple[str, ...]:
    """Put classes in order.

    Args:
        names: in the order that "string" means.

    Raises:
        UserError: ``order`` names other classes, or one of them twice.
    """
    if order == "string":
        return tuple(names)
    if order == "natural":
        return tuple(sorted(sorted(names), key=natural_key))
    known = Spelling(names)
    labels = [known.label(name) for name in order]
    unknown = [name for name, label in zip(order, labels, strict=True) if label is None]
    if unknown:
        raise UserError(
            f"The file of `class_order` names {len(unknown)} class(es) that {data} lacks, as"
            f" {unknown[0]}: give each class of the images once."
        )
    missing = [name for label, name in enumerate(names) if label not in labels]
    if missing:
        raise UserError(
            f"The file of `class_order` lacks {len(missing)} class(es) of {data}, as"
            f" {missing[0]}: give each class of the images once."
        )
    return tuple(names[label] for label in labels if label is not None)


def class_order_of(given: str) -> ClassOrder:
    """Read the order that a command line names: string, natural or a file.

    Raises:
        UserError: as in :func:`read_class_order`.
    """
    if given == "string":
        return "string"
    return "natural" if given == "natural" else read_class_order(Path(given).expanduser())


def read_class_order(file: Path) -> tuple[str, ...]:
    """Read names of classes from a text file, one a line.

    Raises:
        UserError: it cannot be read, is empty, or names a class twice.
    """
    try:
        if file.stat().st_size > MAX_ORDER_FILE_BYTES:
            raise UserError(f"`class_order` {file} is too large for a list of names: give another.")
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"`class_order` {file} cannot be read ({error}): give natural, string, or a file with"
            " the name of a class on each line."
        ) from error
    names = [name for name in (line.rstrip("\r") for line in lines) if name.strip()]
    if len(names) < 2:
        raise UserError(
            f"`class_order` {file} names {len(names)} class(es): give the name of each class, one"
            " a line."
        )
    seen: set[str] = set()
    for name in names:
        if plain_name(name) in seen:
            raise UserError(f"`class_order` {file} names {name} twice: give each class once.")
        seen.add(plain_name(name))
    return tuple(names)
