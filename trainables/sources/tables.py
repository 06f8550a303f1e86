"""Read labelled images from Parquet and Arrow files, as the Hugging Face hub lays them out.

Tables are read batch by batch and need not fit into memory. In an object store, schema and labels
are read in place; a table is downloaded for its images.
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

from trainables.errors import UserError, is_utf8, printable
from trainables.sources.downloads import RangeReader, local_files, max_bytes_on_disk
from trainables.sources.folders import check_trained
from trainables.sources.listing import TABLE_SUFFIXES, Listing, StoredFile
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLIT_WORDS, SPLITS
from trainables.sources.table_schema import Columns, find_columns
from trainables.storage.object_store import MAX_REQUESTS_AT_ONCE, RemotePath

MAX_BATCH_ROWS = 64  # a batch is held in memory with the bytes of its images
STORE_BUFFER_BYTES = 2**20  # of a column at a time: a row group may be the whole file
MAX_SAMPLE_TABLES = 4  # about: every n-th table

READ_ERRORS = (pa.ArrowException, OSError)

Table = Path | StoredFile
Label = int | str | None


def is_table(path: str) -> bool:
    """Whether a file is read as a table; cache-*.arrow files are the `datasets` library's own."""
    name = path.rpartition("/")[2]
    if name.startswith("cache-"):
        return False
    return name.lower().endswith(TABLE_SUFFIXES)


def holds_tables(listing: Listing) -> bool:
    """Whether a listing is to be read as tables, not as class folders."""
    return any(is_table(entry.path) for entry in listing.files)


def table_source(listing: Listing, scratch: Path | None = None) -> Source:
    """Read a listing's Parquet and Arrow files as labelled images.

    Args:
        scratch: the folder that tables of an object store are downloaded to.

    Raises:
        UserError: a file is damaged, its columns or its split are ambiguous, train has no labels,
            or there is one class only.
    """
    tables = _locate_tables(listing)
    split_of = _split_of_each(listing.root, list(tables))
    first = tables[next(path for path in tables if split_of[path] == "train")]
    columns = find_columns(_read_schema(first), _display_name(first))
    label_column = f"Column {columns.label} of {_display_name(first)}"
    labels = _read_all_labels(tables, columns, split_of)

    notes = []
    for split in SPLITS:
        paths = [path for path in labels if split_of[path] == split]
        if paths and all(_known(label) is None for path in paths for label in labels[path]):
            rows = sum(len(labels.pop(path)) for path in paths)
            if split == "train":
                raise UserError(f"{label_column} holds no labels: give labelled images.")
            notes.append(f"The {split} split ({rows} rows) has no labels and is left out.")
    classes = _class_names(labels, columns)
    if len(classes) < 2:
        raise UserError(
            f"{label_column} holds {len(classes)} class(es): give images of at least two."
        )
    parts = [_part(tables[path], path, split_of[path]) for path in labels]
    return _source(parts, columns, labels, classes, notes, scratch)


def extra_table_source(
    listing: Listing, trained: Sequence[str], scratch: Path | None = None
) -> Source:
    """Read a listing's tables as one set of images of classes that a model was trained on.

    Args:
        trained: the classes; labels are positions in them.
        scratch: as in :func:`table_source`.

    Raises:
        UserError: a file is damaged, its columns are ambiguous, or a label names no trained class.
    """
    tables = _locate_tables(listing)
    first = next(iter(tables.values()))
    columns = find_columns(_read_schema(first), _display_name(first))
    labels = _read_all_labels(tables, columns, dict.fromkeys(tables, "train"))
    check_trained(listing.root, _class_names(labels, columns), trained)
    parts = [_part(table, path, "test") for path, table in tables.items()]
    source = _source(parts, columns, labels, tuple(trained), [], scratch)
    return replace(source, required_splits=("test",))


def _locate_tables(listing: Listing) -> dict[str, Table]:
    """Map the relative path of each table of the listing to its file.

    Raises:
        UserError: one of them has a name that cannot be opened.
    """
    entries = [entry for entry in listing.files if is_table(entry.path)]
    for entry in entries:
        if entry.size < 0:
            raise UserError(f"{listing.root}/{entry.path} is no file to open: mend or remove it.")
        if not is_utf8(entry.path):  # pyarrow opens no such file
            shown = printable(entry.path)
            raise UserError(f"{listing.root}/{shown} has a name that is not UTF-8: rename it.")
    return {entry.path: listing.locate(entry) for entry in entries}


class _Part(NamedTuple):
    """One of the tables that a source is read from."""

    table: Table
    display_name: str  # the user's own file, though ``table`` may be a copy of it
    path: str  # below the data folder
    split: str


def _part(table: Table, path: str, split: str) -> _Part:
    return _Part(table, _display_name(table), path, split)


def _source(
    parts: Sequence[_Part],
    columns: Columns,
    labels: dict[str, list[Label]],
    classes: tuple[str, ...],
    notes: list[str],
    scratch: Path | None,
) -> Source:
    class_numbers = {name: number for number, name in enumerate(classes)}
    # A few rows of a few files: a table's first rows are as good as any for an estimate.
    sampled = parts[:: max(1, len(parts) // MAX_SAMPLE_TABLES)]

    def items() -> Iterator[Item]:
        for part in _local_parts(parts, scratch):
            yield from _items(part, columns, class_numbers)

    def sample() -> Iterator[Item]:
        for part in sampled:
            yield from islice(_items(part, columns, class_numbers), MAX_BATCH_ROWS)

    return Source(
        classes=classes,
        total=sum(len(part_labels) for part_labels in labels.values()),
        given_splits=tuple(split for split in SPLITS if split in {part.split for part in parts}),
        notes=tuple(notes),
        items=items,
        sample=sample,
        scratch_bytes=max_bytes_on_disk(
            part.table.size for part in parts if isinstance(part.table, StoredFile)
        ),
    )


def _local_parts(parts: Sequence[_Part], scratch: Path | None) -> Iterator[_Part]:
    """Give the parts in order; a copy of one in a store is deleted when the next is taken."""
    stored = [part.table for part in parts if isinstance(part.table, StoredFile)]
    if not stored:
        yield from parts
        return
    assert scratch is not None, "a store's tables need a folder to be downloaded to"
    for part, copy in zip(parts, local_files(stored, scratch), strict=True):
        yield part._replace(table=copy)


def _split_of_each(root: Path | RemotePath, paths: Sequence[str]) -> dict[str, str]:
    """Map each table's path to the split that it names; to train where none does, or it is alone.

    Raises:
        UserError: some name a split and others do not, one names several, or none names train.
    """
    named_splits = {path: _named_split(root, path) for path in paths}
    if len(paths) == 1 or not any(named_splits.values()):
        return dict.fromkeys(paths, "train")
    split_of = {}
    for path, split in named_splits.items():
        if split is None:
            raise UserError(
                f"{root / path} names no split, other files beside it do: put train, val or test"
                " into its name, or move it elsewhere."
            )
        split_of[path] = split
    if "train" not in split_of.values():
        raise UserError(f"{root} holds no train file: add one, named train-*.parquet or like it.")
    return split_of


def _named_split(root: Path | RemotePath, path: str) -> str | None:
    """The split that the file's name gives, or else the nearest folder's; None: neither does."""
    for part in reversed(path.split("/")):
        words = re.split(r"[^a-z0-9]+", part.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) > 1:
            raise UserError(f"{root / path} names several splits: rename it to one of them.")
        if splits:
            return splits.pop()
    return None


def _display_name(table: Table) -> str:
    return str(table.path if isinstance(table, StoredFile) else table)


def _is_parquet(table: Table) -> bool:
    return _display_name(table).lower().endswith(".parquet")


@contextmanager
def _open_table(table: Table) -> Iterator[pa.NativeFile]:
    if isinstance(table, StoredFile):
        with RangeReader(table) as reader, pa.PythonFile(reader, mode="r") as file:
            yield file
    else:
        with pa.memory_map(str(table)) as file:
            yield file


def _open_ipc(file: pa.NativeFile) -> Any:
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:  # the streaming format, which `datasets` writes
        file.seek(0)
        return pa.ipc.open_stream(file)


def _read_schema(table: Table) -> pa.Schema:
    try:
        with _open_table(table) as file:
            if _is_parquet(table):
                return pq.read_schema(file)
            with _open_ipc(file) as reader:
                return reader.schema
    except READ_ERRORS as error:
        raise _damaged(_display_name(table), error) from error


def _read_batches(table: Table, names: list[str], display_name: str) -> Iterator[pa.RecordBatch]:
    """Read the named columns, in batches of at most ``MAX_BATCH_ROWS`` rows."""
    try:
        with _open_table(table) as file:
            if _is_parquet(table):
                buffer_size = STORE_BUFFER_BYTES if isinstance(table, StoredFile) else 0
                with pq.ParquetFile(file, buffer_size=buffer_size) as parquet:
                    yield from parquet.iter_batches(batch_size=MAX_BATCH_ROWS, columns=names)
                return
            yield from _read_ipc_batches(file, names)
    except (*READ_ERRORS, KeyError) as error:
        raise _damaged(display_name, error) from error


def _read_ipc_batches(file: pa.NativeFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    with _open_ipc(file) as reader:
        is_stream = isinstance(reader, pa.RecordBatchStreamReader)
        batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            chosen = batch.select(names)
            for start in range(0, chosen.num_rows, MAX_BATCH_ROWS):
                yield chosen.slice(start, MAX_BATCH_ROWS)


def _damaged(display_name: str, error: Exception) -> UserError:
    return UserError(f"{display_name} cannot be read ({error}): check it, or download it again.")


def _read_all_labels(
    tables: Mapping[str, Table], columns: Columns, split_of: Mapping[str, str]
) -> dict[str, list[Label]]:
    """Read the labels of all tables, many at a time: a store takes long to answer."""
    with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE) as pool:
        labels = pool.map(lambda path: _read_labels(tables[path], columns, split_of[path]), tables)
        return dict(zip(tables, labels, strict=True))


def _read_labels(table: Table, columns: Columns, split: str) -> list[Label]:
    """Read the label of each row; all None where a val or test table has no such column.

    Raises:
        UserError: the table lacks a column that the others have, or is damaged.
    """
    names = _read_schema(table).names
    has_labels = columns.label in names
    if columns.image not in names or (not has_labels and split == "train"):
        raise UserError(
            f"{_display_name(table)} lacks the column {columns.image} or {columns.label} of the"
            " other files: give all files the same columns."
        )
    column = columns.label if has_labels else columns.image
    labels: list[Label] = []
    try:
        for batch in _read_batches(table, [column], _display_name(table)):
            labels.extend(batch.column(0).to_pylist() if has_labels else [None] * batch.num_rows)
    except UnicodeDecodeError as error:  # text need not be the UTF-8 that its type says
        raise _damaged(_display_name(table), error) from error
    return labels


def _known(label: Label) -> Label:
    """The label, or None where it says that there is none: null, or -1 as on the hub."""
    return None if label is None or (isinstance(label, int) and label < 0) else label


def _class_names(labels: dict[str, list[Label]], columns: Columns) -> tuple[str, ...]:
    """List the classes that occur, in the file's own order, else by number, else by name."""
    known = {_known(label) for table_labels in labels.values() for label in table_labels} - {None}
    ordered = sorted(known, key=lambda label: (isinstance(label, str), label))
    names = (_class_name(label, columns) for label in ordered)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _class_name(label: Label, columns: Columns) -> str | None:
    """The class name of a label; None for no label, and for a number without a name."""
    known = _known(label)
    if known is None:
        return None
    if columns.names is None or isinstance(known, str):
        return str(known)
    return columns.names[known] if known < len(columns.names) else None


def _items(part: _Part, columns: Columns, class_numbers: dict[str, int]) -> Iterator[Item]:
    """Read the rows of a table as items."""
    row = 0
    names = list(dict.fromkeys([columns.image, columns.label]))
    for batch in _read_batches(part.table, names, part.display_name):
        images = batch.column(columns.image)
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
        labels = batch.column(columns.label).to_pylist()
        for content, label in zip(images.to_pylist(), labels, strict=True):
            name = _class_name(label, columns)
            reason = "no image bytes (null)" if content is None else ""
            if name is None:
                reason = f"no class for label {label}"
            yield Item(
                path=f"{part.path}#{row}",
                label=-1 if name is None else class_numbers[name],
                split=part.split,
                content=None if reason else content,
                reason=reason,
            )
            row += 1
