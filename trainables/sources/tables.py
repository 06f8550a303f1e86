"""Read labelled images from Parquet and Arrow files, as the Hugging Face hub lays them out.

Tables are read batch by batch and need not fit into memory. In an object store, schema and labels
are read in place; a table is downloaded for its images.
"""

from collections import Counter
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
from trainables.sources.class_names import (
    ClassOrder,
    Spelling,
    case_notes,
    check_class_names,
    check_in_train,
    check_trained,
    in_order,
)
from trainables.sources.downloads import RangeReader, local_files, max_bytes_on_disk
from trainables.sources.left_out import is_image_name, left_out_notes
from trainables.sources.listing import TABLE_SUFFIXES, Listing, StoredFile
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLITS, splits_named_in
from trainables.sources.table_labels import (
    Label,
    Labelled,
    check_kinds,
    class_name,
    class_names,
    known_label,
    unused_names,
)
from trainables.sources.table_schema import (
    Columns,
    columns_of,
    find_columns,
    has_groups,
    without_odd_types,
)
from trainables.storage.object_store import MAX_REQUESTS_AT_ONCE, RemotePath

MAX_BATCH_ROWS = 64  # a batch is held in memory with the bytes of its images
STORE_BUFFER_BYTES = 2**20  # of a column at a time: a row group may be the whole file
MAX_SAMPLE_TABLES = 4  # about: every n-th table

READ_ERRORS = (pa.ArrowException, OSError)

Table = Path | StoredFile


def is_table(path: str) -> bool:
    """Whether a file is read as a table; cache-*.arrow files are the `datasets` library's own."""
    name = path.rpartition("/")[2]
    if name.startswith("cache-"):
        return False
    return name.lower().endswith(TABLE_SUFFIXES)


def table_source(
    listing: Listing,
    scratch: Path | None = None,
    class_order: ClassOrder = "string",
    group_by: str | None = None,
) -> Source:
    """Read a listing's Parquet and Arrow files as labelled images, each by its own class names.

    Args:
        scratch: the folder that tables of an object store are downloaded to.
        class_order: "string" is the first table's own order, where its labels are numbers.
        group_by: the column that names which images belong together.

    Raises:
        UserError: a file is damaged, its columns, its classes or its split are ambiguous, train
            has no labels, or lacks a class, or there is one class only.
    """
    tables = _locate_tables(listing)
    split_of = _split_of_each(listing.root, list(tables))
    first = next(path for path in tables if split_of[path] == "train")
    read = _read_all_labels(tables, first, split_of, group_by)
    label_column = f"Column {read[first].columns.label} of {_display_name(tables[first])}"

    notes = []
    for split in SPLITS:
        paths = [path for path in read if split_of[path] == split]
        if paths and all(
            known_label(label) is None for path in paths for label in read[path].labels
        ):
            rows = sum(len(read.pop(path).labels) for path in paths)
            if split == "train":
                raise UserError(f"{label_column} holds no labels: give labelled images.")
            notes.append(f"The {split} split ({rows} rows) has no labels and is left out.")
    check_kinds(listing.root, read)
    in_split = {split: [read[path] for path in read if split_of[path] == split] for split in SPLITS}
    names = class_names(in_split["train"])
    if len(names) < 2:
        raise UserError(
            f"{label_column} holds {len(names)} class(es): give images of at least two."
        )
    for split in SPLITS:
        found = class_names(in_split[split])
        check_class_names(listing.root, found)
        check_in_train(listing.root, split, found, names)
    classes = in_order(listing.root, names, class_order)
    notes += [*case_notes(classes), *unused_names(in_split["train"], classes)]
    parts = [_part(tables[path], path, split_of[path], read[path]) for path in read]
    source = _source(listing, parts, classes, notes, scratch)
    return replace(source, grouping=f"the column {group_by}") if group_by else source


def extra_table_source(
    listing: Listing,
    trained: Sequence[str],
    scratch: Path | None = None,
    group_by: str | None = None,
) -> Source:
    """Read a listing's tables as one set of images of classes that a model was trained on.

    Args:
        trained: the classes; labels are positions in them.
        scratch: as in :func:`table_source`.
        group_by: the column that names which images belong together. Images of tables that have
            none of integers or text are in no group, as nothing is split by it.

    Raises:
        UserError: a file is damaged, its columns are ambiguous, or a label names no trained class.
    """
    tables = _locate_tables(listing)
    first = next(iter(tables))
    split_of = dict.fromkeys(tables, "train")
    read = _read_all_labels(tables, first, split_of, group_by, needs_groups=False)
    check_kinds(listing.root, read)
    check_trained(listing.root, class_names(list(read.values())), trained)
    parts = [_part(table, path, "test", read[path]) for path, table in tables.items()]
    without = [part.display_name for part in parts if part.columns.group is None]
    notes = []
    if group_by is not None and 0 < len(without) < len(parts):
        notes.append(
            f"{len(without)} table(s), as {without[0]}, have no column {group_by} of integers or"
            " text, or several: their images are in no group."
        )
    source = _source(listing, parts, tuple(trained), notes, scratch)
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
    columns: Columns
    rows: int


def _part(table: Table, path: str, split: str, read: Labelled) -> _Part:
    return _Part(table, _display_name(table), path, split, read.columns, len(read.labels))


def _source(
    listing: Listing,
    parts: Sequence[_Part],
    classes: tuple[str, ...],
    notes: list[str],
    scratch: Path | None,
) -> Source:
    spelling = Spelling(classes)
    # A few rows of a few files: a table's first rows are as good as any for an estimate.
    sampled = parts[:: max(1, len(parts) // MAX_SAMPLE_TABLES)]

    def items() -> Iterator[Item]:
        for part in _local_parts(parts, scratch):
            yield from _items(part, spelling)

    def sample() -> Iterator[Item]:
        for part in sampled:
            yield from islice(_items(part, spelling), MAX_BATCH_ROWS)

    counts = Counter(part.split for part in parts)
    given_splits = tuple(split for split in SPLITS if split in counts)
    return Source(
        classes=classes,
        total=sum(part.rows for part in parts),
        given_splits=given_splits,
        layout=f"tables ({', '.join(f'{counts[s]} file(s) of {s}' for s in given_splits)})",
        notes=(*notes, *_passed_over(listing), *left_out_notes(listing.left_out)),
        items=items,
        sample=sample,
        scratch_bytes=max_bytes_on_disk(
            part.table.size for part in parts if isinstance(part.table, StoredFile)
        ),
    )


def _passed_over(listing: Listing) -> list[str]:
    """Write a sentence on image files beside the tables, where there are some."""
    images = [entry.path for entry in listing.files if is_image_name(entry.path)]
    if not images:
        return []
    example = printable(images[0])
    return [f"{len(images)} image file(s) beside the tables are left out, as {example}."]


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
        splits = splits_named_in(part)
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


def _values(batch: pa.RecordBatch, column: str, display_name: str) -> list[Any]:
    """Give a column's values.

    Raises:
        UserError: its text is not the UTF-8 that its type says.
    """
    try:
        values: list[Any] = batch.column(column).to_pylist()
    except UnicodeDecodeError as error:
        raise _damaged(display_name, error) from error
    return values


def _damaged(display_name: str, error: Exception) -> UserError:
    return UserError(f"{display_name} cannot be read ({error}): check it, or download it again.")


def _read_all_labels(
    tables: Mapping[str, Table],
    first: str,
    split_of: Mapping[str, str],
    group_by: str | None = None,
    *,
    needs_groups: bool = True,
) -> dict[str, Labelled]:
    """Read the labels of all tables, many at a time: a store takes long to answer.

    Args:
        first: the table that says which columns hold images and labels.
        needs_groups: whether each table has to have the column of groups.
    """
    needed = group_by if needs_groups else None
    columns = find_columns(_read_schema(tables[first]), _display_name(tables[first]), needed)
    wanted = None if needs_groups else group_by
    with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE) as pool:
        read = pool.map(
            lambda path: _read_labels(tables[path], columns, split_of[path], wanted), tables
        )
        return dict(zip(tables, read, strict=True))


def _read_labels(
    table: Table, columns: Columns, split: str, wanted_group: str | None = None
) -> Labelled:
    """Read the label of each row; all None where a val or test table has no such column.

    Args:
        wanted_group: the column of groups, which the table may have.

    Raises:
        UserError: the table lacks a column that the others have, or is damaged.
    """
    schema = _read_schema(table)
    has_labels = columns.label in schema.names
    if columns.image not in schema.names or (not has_labels and split == "train"):
        raise UserError(
            f"{_display_name(table)} lacks the column {columns.image} or {columns.label} of the"
            " other files: give all files the same columns."
        )
    own_columns = columns_of(schema, columns, _display_name(table))
    if wanted_group is not None and has_groups(schema, wanted_group):
        own_columns = replace(own_columns, group=wanted_group)
    column = columns.label if has_labels else columns.image
    labels: list[Label] = []
    for batch in _read_batches(table, [column], _display_name(table)):
        none = [None] * batch.num_rows
        labels.extend(_values(batch, column, _display_name(table)) if has_labels else none)
    if has_labels:
        labels = without_odd_types(labels, schema, columns.label, _display_name(table))
    return Labelled(own_columns, labels)


def _items(part: _Part, spelling: Spelling) -> Iterator[Item]:
    """Read the rows of a table as items."""
    row, columns = 0, part.columns
    names = list(dict.fromkeys([columns.image, columns.label, columns.group or columns.label]))
    for batch in _read_batches(part.table, names, part.display_name):
        images = batch.column(columns.image)
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
        labels = _values(batch, columns.label, part.display_name)
        groups = _values(batch, columns.group or columns.label, part.display_name)
        for content, given, group in zip(images.to_pylist(), labels, groups, strict=True):
            name = class_name(given, columns)
            label = None if name is None else spelling.label(name)
            reason = "no image bytes (null)" if content is None else ""
            if label is None:
                reason = f"no class for label {given}"
            yield Item(
                path=f"{part.path}#{row}",
                label=-1 if label is None else label,
                split=part.split,
                content=None if reason else content,
                reason=reason,
                group=None if columns.group is None or group is None else str(group),
            )
            row += 1
