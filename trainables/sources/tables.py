"""Reads labelled images from Parquet and Arrow files, as the Hugging Face hub lays them out.

Knows the class names and the split of each file; reads batch by batch, so that a table need not fit
into memory. Of a table in an object store, schema and labels are read in place; for its images it
is downloaded. Knows nothing of decoding and caching.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.errors import UserError
from trainables.sources.downloads import RangeReader, local_files, most_on_disk
from trainables.sources.folders import check_trained
from trainables.sources.listing import TABLE_SUFFIXES, Listing, StoredFile, located
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLIT_WORDS, SPLITS
from trainables.sources.table_schema import Columns, find_columns
from trainables.storage.object_store import MAX_REQUESTS_AT_ONCE, RemotePath

_ROWS = 64  # a batch is held in memory with the bytes of its images
_PAGES = 2**20  # bytes of a column read at a time in a store: a row group may be the whole file
_BROKEN = (pa.ArrowException, OSError)

Table = Path | StoredFile


def is_table(path: str) -> bool:
    """Whether a file is read as a table; cache-*.arrow is what `datasets` leaves behind."""
    name = path.rpartition("/")[2]
    if name.startswith("cache-"):
        return False
    return name.lower().endswith(TABLE_SUFFIXES)


def holds_tables(listing: Listing) -> bool:
    """Whether a listing is to be read as tables."""
    return any(is_table(entry.path) for entry in listing.files)


def table_source(listing: Listing, scratch: Path | None = None) -> Source:
    """Read a listing's Parquet and Arrow files as labelled images.

    Args:
        scratch: the folder for what is downloaded of a store's listing.

    Raises:
        UserError: a file is damaged, its columns or its split are ambiguous, train has no labels,
            or there is one class only.
    """
    files = _files(listing)
    split_of = _split_of_each(listing.root, list(files))
    first = next(path for path in files if split_of[path] == "train")
    columns = find_columns(_schema(files[first]), _name_of(files[first]))
    labels = _read_all_labels(files, columns, split_of)

    notes = []
    for split in SPLITS:
        of_split = [path for path in labels if split_of[path] == split]
        if of_split and all(_known(label) is None for path in of_split for label in labels[path]):
            rows = sum(len(labels.pop(path)) for path in of_split)
            if split == "train":
                raise UserError(
                    f"Column {columns.label} of {_name_of(files[first])} holds no labels: give"
                    " labelled images."
                )
            notes.append(f"The {split} split ({rows} rows) has no labels and is left out.")
    classes = _class_names(labels, columns)
    if len(classes) < 2:
        raise UserError(
            f"Column {columns.label} of {_name_of(files[first])} holds {len(classes)} class(es):"
            " give images of at least two."
        )
    kept = [_part(files[path], path, split_of[path]) for path in labels]
    return _source(kept, columns, labels, classes, notes, scratch)


def extra_table_source(
    listing: Listing, trained: Sequence[str], scratch: Path | None = None
) -> Source:
    """Read a listing's tables as one set of images of classes that a model was trained on.

    Labels are positions in `trained`; `scratch` is as of `table_source`.

    Raises:
        UserError: a file is damaged, its columns are ambiguous, or a label names no trained class.
    """
    files = _files(listing)
    first = next(iter(files.values()))
    columns = find_columns(_schema(first), _name_of(first))
    labels = _read_all_labels(files, columns, dict.fromkeys(files, "train"))
    check_trained(listing.root, _class_names(labels, columns), trained)
    kept = [_part(file, path, "test") for path, file in files.items()]
    source = _source(kept, columns, labels, tuple(trained), [], scratch)
    return replace(source, splits=("test",))


def _files(listing: Listing) -> dict[str, Table]:
    """Raises:
    UserError: one of them has a name that cannot be opened.
    """
    entries = [entry for entry in listing.files if is_table(entry.path)]
    for entry in entries:
        if entry.size < 0:
            raise UserError(f"{listing.root}/{entry.path} is no file to open: mend or remove it.")
    return {entry.path: located(listing, entry) for entry in entries}


class _Part(NamedTuple):
    """One table."""

    file: Table
    told: str  # where the user has it
    path: str  # below the data folder
    split: str


def _part(file: Table, path: str, split: str) -> _Part:
    return _Part(file, _name_of(file), path, split)


def _source(
    kept: Sequence[_Part],
    columns: Columns,
    labels: dict[str, list[int | str | None]],
    classes: tuple[str, ...],
    notes: list[str],
    scratch: Path | None,
) -> Source:
    """What the tables hold."""
    numbers = {name: number for number, name in enumerate(classes)}
    # A few rows of a few files: a table's first rows are as good as any for an estimate.
    some = kept[:: max(1, len(kept) // 4)]
    return Source(
        classes=classes,
        total=sum(len(found) for found in labels.values()),
        given=tuple(split for split in SPLITS if split in {part.split for part in kept}),
        notes=tuple(notes),
        items=lambda: (
            item for part in _local(kept, scratch) for item in _items(part, columns, numbers)
        ),
        sample=lambda: (
            item for part in some for item in islice(_items(part, columns, numbers), _ROWS)
        ),
        scratch_bytes=most_on_disk(p.file.size for p in kept if isinstance(p.file, StoredFile)),
    )


def _local(kept: Sequence[_Part], scratch: Path | None) -> Iterator[_Part]:
    """The same tables, those in a store as local copies, each there until the next is given."""
    stored = [part.file for part in kept if isinstance(part.file, StoredFile)]
    if not stored:
        yield from kept
        return
    assert scratch is not None, "a store's tables need a folder to lie in"
    for part, copy in zip(kept, local_files(stored, scratch), strict=True):
        yield part._replace(file=copy)


def _split_of_each(root: Path | RemotePath, paths: Sequence[str]) -> dict[str, str]:
    named = {path: _named_split(root, path) for path in paths}
    if len(paths) == 1 or not any(named.values()):
        return dict.fromkeys(paths, "train")
    found = {}
    for path, split in named.items():
        if split is None:
            raise UserError(
                f"{root / path} names no split, other files beside it do: put train, val or test"
                " into its name, or move it elsewhere."
            )
        found[path] = split
    if "train" not in found.values():
        raise UserError(f"{root} holds no train file: add one, named train-*.parquet or like it.")
    return found


def _named_split(root: Path | RemotePath, path: str) -> str | None:
    """The split that the file's name gives, or else the nearest folder's."""
    for part in reversed(path.split("/")):
        words = re.split(r"[^a-z0-9]+", part.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) > 1:
            raise UserError(f"{root / path} names several splits: rename it to one of them.")
        if splits:
            return splits.pop()
    return None


def _name_of(file: Table) -> str:
    return str(file.place if isinstance(file, StoredFile) else file)


@contextmanager
def _opened(file: Table) -> Iterator[pa.NativeFile]:
    if isinstance(file, StoredFile):
        with RangeReader(file) as reader, pa.PythonFile(reader, mode="r") as opened:
            yield opened
    else:
        with pa.memory_map(str(file)) as opened:
            yield opened


def _schema(file: Table) -> pa.Schema:
    try:
        with _opened(file) as opened:
            if _name_of(file).lower().endswith(".parquet"):
                return pq.read_schema(opened)
            with _open_ipc(opened) as reader:
                return reader.schema
    except _BROKEN as error:
        raise _damaged(_name_of(file), error) from error


def _open_ipc(opened: pa.NativeFile) -> Any:
    try:
        return pa.ipc.open_file(opened)
    except pa.ArrowInvalid:  # the streaming format, which `datasets` writes
        opened.seek(0)
        return pa.ipc.open_stream(opened)


def _batches(file: Table, names: list[str], told: str) -> Iterator[pa.RecordBatch]:
    """The named columns, in batches of at most `_ROWS` rows; errors name the file as `told`."""
    try:
        with _opened(file) as opened:
            if _name_of(file).lower().endswith(".parquet"):
                pages = _PAGES if isinstance(file, StoredFile) else 0
                with pq.ParquetFile(opened, buffer_size=pages) as parquet:
                    yield from parquet.iter_batches(batch_size=_ROWS, columns=names)
                return
            yield from _ipc_batches(opened, names)
    except (*_BROKEN, KeyError) as error:
        raise _damaged(told, error) from error


def _ipc_batches(opened: pa.NativeFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    with _open_ipc(opened) as reader:
        stream = isinstance(reader, pa.RecordBatchStreamReader)
        batches = reader if stream else map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            chosen = batch.select(names)
            for start in range(0, chosen.num_rows, _ROWS):
                yield chosen.slice(start, _ROWS)


def _damaged(file: str, error: Exception) -> UserError:
    return UserError(f"{file} cannot be read ({error}): check it, or download it again.")


def _read_all_labels(
    files: Mapping[str, Table], columns: Columns, split_of: Mapping[str, str]
) -> dict[str, list[int | str | None]]:
    """The labels of each file, which in a store are far apart: many are read at a time."""
    with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE) as pool:
        found = pool.map(lambda path: _read_labels(files[path], columns, split_of[path]), files)
        return dict(zip(files, found, strict=True))


def _read_labels(file: Table, columns: Columns, split: str) -> list[int | str | None]:
    """The label of each row; all None where a val or test file has no such column."""
    names = _schema(file).names
    if columns.image not in names or (columns.label not in names and split == "train"):
        raise UserError(
            f"{_name_of(file)} lacks the column {columns.image} or {columns.label} of the other"
            " files: give all files the same columns."
        )
    has_labels = columns.label in names
    wanted = columns.label if has_labels else columns.image
    labels: list[int | str | None] = []
    for batch in _batches(file, [wanted], _name_of(file)):
        labels.extend(batch.column(0).to_pylist() if has_labels else [None] * batch.num_rows)
    return labels


def _known(label: int | str | None) -> int | str | None:
    """The label, or None where it says that there is none: null, or -1 as on the hub."""
    return None if label is None or (isinstance(label, int) and label < 0) else label


def _class_names(labels: dict[str, list[int | str | None]], columns: Columns) -> tuple[str, ...]:
    """The classes that occur, in the file's own order, else by number, else by name."""
    found = {_known(label) for of_file in labels.values() for label in of_file} - {None}
    ordered = sorted(found, key=lambda label: (isinstance(label, str), label))
    names = (_name(label, columns) for label in ordered)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _name(label: int | str | None, columns: Columns) -> str | None:
    """The class name of a label; None for no label, and for a number without a name."""
    known = _known(label)
    if known is None:
        return None
    if columns.names is None or isinstance(known, str):
        return str(known)
    return columns.names[known] if known < len(columns.names) else None


def _items(part: _Part, columns: Columns, numbers: dict[str, int]) -> Iterator[Item]:
    row = 0
    names = list(dict.fromkeys([columns.image, columns.label]))
    for batch in _batches(part.file, names, part.told):
        images = batch.column(columns.image)
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
        labels = batch.column(columns.label).to_pylist()
        for content, label in zip(images.to_pylist(), labels, strict=True):
            name = _name(label, columns)
            reason = "no image bytes (null)" if content is None else ""
            if name is None:
                reason = f"no class for label {label}"
            yield Item(
                path=f"{part.path}#{row}",
                label=-1 if name is None else numbers[name],
                split=part.split,
                content=None if reason else content,
                reason=reason,
            )
            row += 1
