"""Tell the classes of tables from the labels of their rows, each table by its own class names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainables.errors import UserError
from trainables.sources.class_names import Spelling
from trainables.sources.table_schema import Columns
from trainables.storage.object_store import RemotePath

Label = int | str | None


class Labelled(NamedTuple):
    """The columns of a table, with its own class names, and the label of each row."""

    columns: Columns
    labels: list[Label]

    @property
    def kind(self) -> str | None:
        """How the classes are given: by "names" of numbers, "numbers" or "text"; None: not."""
        known = [label for label in self.labels if known_label(label) is not None]
        if not known:
            return None
        if any(isinstance(label, str) for label in known):
            return "text"
        return "names" if self.columns.names else "numbers"


def check_kinds(root: Path | RemotePath, read: Mapping[str, Labelled]) -> None:
    """Refuse tables of which one numbers classes and another names them.

    Raises:
        UserError: there are such.
    """
    kinds = {path: labelled.kind for path, labelled in read.items()}
    numbered = [path for path, kind in kinds.items() if kind == "numbers"]
    numbers = {str(label) for path in numbered for label in read[path].labels}
    for path, kind in kinds.items():
        same = kind == "text" and numbers.issuperset(map(str, read[path].labels))
        if numbered and kind in ("names", "text") and not same:
            raise UserError(
                f"{root / numbered[0]} numbers its classes and {root / path} names them: give all"
                " files numbers, or all of them names."
            )


def known_label(label: Label) -> Label:
    """The label, or None where it says that there is none: null, or -1 as on the hub."""
    return None if label is None or (isinstance(label, int) and label < 0) else label


def class_names(read: Sequence[Labelled]) -> tuple[str, ...]:
    """List the classes that occur, in the first file's own order, else by number, else by name."""
    by_names = [one for one in read if one.kind == "names"]
    found = {class_name(label, one.columns) for one in by_names for label in one.labels}
    own_order = dict.fromkeys(name for one in by_names for name in one.columns.names or ())
    others = {known_label(label) for one in read if one.kind != "names" for label in one.labels} - {
        None
    }
    ordered = sorted(others, key=lambda label: (isinstance(label, str), label))
    return tuple(
        dict.fromkeys([*(name for name in own_order if name in found), *map(str, ordered)])
    )


def unused_names(read: Sequence[Labelled], classes: Sequence[str]) -> list[str]:
    """Write a sentence on classes that tables name and that no row of train has."""
    declared = dict.fromkeys(name for one in read for name in one.columns.names or ())
    spelling = Spelling(classes)
    unused = [name for name in declared if name not in spelling]
    if not unused or not any(one.kind == "names" for one in read):
        return []
    return [
        f"{len(unused)} class(es) that the tables name have no image in train and get no output,"
        f" as {unused[0]}."
    ]


def class_name(label: Label, columns: Columns) -> str | None:
    """The class name of a label; None for no label, and for a number without a name."""
    known = known_label(label)
    if known is None:
        return None
    if columns.names is None or isinstance(known, str):
        return str(known)
    return columns.names[known] if known < len(columns.names) else None
