"""Reads labelled images from Parquet and Arrow files, as the Hugging Face hub lays them out.

Knows the columns, the class names and the split of each file; reads batch by batch, so that a
table need not fit into memory. Knows nothing of decoding and caching.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.errors import UserError
from trainables.images import (
    SPLIT_WORDS,
    SPLITS,
    TABLE_SUFFIXES,
    Item,
    Listing,
    Source,
    check_trained,
)

IMAGE_NAMES = ("image", "images", "img", "bytes", "image_bytes", "picture", "photo")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "category")
_ROWS = 64  # a batch is held in memory with the bytes of its images
_BROKEN = (pa.ArrowException, OSError)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what; names are the label's class names, where the file knows them."""

    image: str
    label: str
    names: tuple[str, ...] | None


def is_table(path: str) -> bool:
    """Whether a file is read as a table; cache-*.arrow is what `datasets` leaves behind."""
    name = path.rpartition("/")[2]
    if name.startswith("cache-"):
        return False
    return name.lower().endswith(TABLE_SUFFIXES)


def holds_tables(listing: Listing) -> bool:
    """Whether a listing is to be read as tables."""
    return any(is_table(entry.path) for entry in listing.files)


def table_source(listing: Listing) -> Source:
    """Read a listing's Parquet and Arrow files as labelled images.

    Raises:
        UserError: a file is damaged, its columns or its split are ambiguous, train has no labels,
            or there is one class only.
    """
    files = _files(listing)
    split_of = _split_of_each(listing.root, list(files))
    first = next(path for path in files if split_of[path] == "train")
    columns = _find_columns(files[first])
    labels = {path: _read_labels(files[path], columns, split_of[path]) for path in files}

    notes = []
    for split in SPLITS:
        of_split = [path for path in labels if split_of[path] == split]
        if of_split and all(_known(label) is None for path in of_split for label in labels[path]):
            rows = sum(len(labels.pop(path)) for path in of_split)
            if split == "train":
                raise UserError(
                    f"Column {columns.label} of {files[first]} holds no labels: give"
                    " labelled images."
                )
            notes.append(f"The {split} split ({rows} rows) has no labels and is left out.")
    classes = _class_names(labels, columns)
    if len(classes) < 2:
        raise UserError(
            f"Column {columns.label} of {files[first]} holds {len(classes)} class(es): give images"
            " of at least two."
        )
    return _source(files, split_of, columns, labels, classes, notes)


def further_table_source(listing: Listing, trained: Sequence[str]) -> Source:
    """Read a listing's tables as one set of images of classes that a model was trained on.

    Labels are positions in `trained`.

    Raises:
        UserError: a file is damaged, its columns are ambiguous, or a label names no trained class.
    """
    files = _files(listing)
    columns = _find_columns(next(iter(files.values())))
    labels = {path: _read_labels(file, columns, "train") for path, file in files.items()}
    check_trained(listing.root, _class_names(labels, columns), trained)
    split_of = dict.fromkeys(files, "test")
    source = _source(files, split_of, columns, labels, tuple(trained), [])
    return replace(source, splits=("test",))


def _files(listing: Listing) -> dict[str, Path]:
    paths = (entry.path for entry in listing.files if is_table(entry.path))
    return {path: listing.root / path for path in paths}


def _source(
    files: dict[str, Path],
    split_of: dict[str, str],
    columns: Columns,
    labels: dict[str, list[int | str | None]],
    classes: tuple[str, ...],
    notes: list[str],
) -> Source:
    """What the files that are still in `labels` hold."""
    kept = [(files[path], path, split_of[path]) for path in labels]
    numbers = {name: number for number, name in enumerate(classes)}
    # A few rows of a few files: a table's first rows are as good as any for an estimate.
    some = kept[:: max(1, len(kept) // 4)]
    return Source(
        classes=classes,
        total=sum(len(found) for found in labels.values()),
        given=tuple(split for split in SPLITS if split in {split_of[path] for path in labels}),
        notes=tuple(notes),
        items=lambda: (item for part in kept for item in _items(*part, columns, numbers)),
        sample=lambda: (
            item for part in some for item in islice(_items(*part, columns, numbers), _ROWS)
        ),
    )


def _split_of_each(root: Path, paths: Sequence[str]) -> dict[str, str]:
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


def _named_split(root: Path, path: str) -> str | None:
    """The split that the file's name gives, or else the nearest folder's."""
    for part in reversed(path.split("/")):
        words = re.split(r"[^a-z0-9]+", part.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) > 1:
            raise UserError(f"{root / path} names several splits: rename it to one of them.")
        if splits:
            return splits.pop()
    return None


def _schema(file: Path) -> pa.Schema:
    try:
        if file.suffix.lower() == ".parquet":
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as mapped, _open_ipc(mapped) as reader:
            return reader.schema
    except _BROKEN as error:
        raise _damaged(file, error) from error


def _open_ipc(mapped: pa.MemoryMappedFile) -> Any:
    try:
        return pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:  # the streaming format, which `datasets` writes
        mapped.seek(0)
        return pa.ipc.open_stream(mapped)


def _batches(file: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    """The named columns, in batches of at most `_ROWS` rows."""
    try:
        if file.suffix.lower() == ".parquet":
            with pq.ParquetFile(file) as parquet:
                yield from parquet.iter_batches(batch_size=_ROWS, columns=names)
            return
        with pa.memory_map(str(file)) as mapped, _open_ipc(mapped) as reader:
            stream = isinstance(reader, pa.RecordBatchStreamReader)
            batches = reader if stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in batches:
                chosen = batch.select(names)
                for start in range(0, chosen.num_rows, _ROWS):
                    yield chosen.slice(start, _ROWS)
    except (*_BROKEN, KeyError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} cannot be read ({error}): check it, or download it again.")


def _find_columns(file: Path) -> Columns:
    schema = _schema(file)
    features = _features(schema)
    images = {field.name for field in schema if _is_image(field.type)}
    labels = {field.name for field in schema if _is_label(field.type)}
    image = (
        _only(images & set(IMAGE_NAMES))
        or _only({name for name in images if _feature_type(features, name) == "Image"})
        or _only(images)
    )
    class_labels = {name for name in labels if _feature_type(features, name) == "ClassLabel"}
    label = _only(labels & set(LABEL_NAMES)) or _only(class_labels)
    for found, kind, known in ((image, "image", IMAGE_NAMES), (label, "label", LABEL_NAMES)):
        if found is None:
            shown = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
            raise UserError(
                f"{file} has no column, or several, that may hold the {kind}s; its columns are"
                f" {shown or 'none'}: name exactly one of them {' or '.join(known[:3])}."
            )
    assert image is not None
    assert label is not None
    told = features.get(label, {}).get("names") if label in class_labels else None
    names = tuple(map(str, told)) if isinstance(told, list) and told else None
    return Columns(image=image, label=label, names=names)


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the Hugging Face metadata says of each column; empty where there is none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: told for name, told in features.items() if isinstance(told, dict)}
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def _feature_type(features: dict[str, Any], name: str) -> Any:
    return features.get(name, {}).get("_type")


def _short(kind: pa.DataType) -> str:
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind.fields)
    return _is_bytes(kind)


def _is_label(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def _read_labels(file: Path, columns: Columns, split: str) -> list[int | str | None]:
    """The label of each row; all None where a val or test file has no such column."""
    names = _schema(file).names
    if columns.image not in names or (columns.label not in names and split == "train"):
        raise UserError(
            f"{file} lacks the column {columns.image} or {columns.label} of the other files:"
            " give all files the same columns."
        )
    has_labels = columns.label in names
    wanted = columns.label if has_labels else columns.image
    labels: list[int | str | None] = []
    for batch in _batches(file, [wanted]):
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


def _items(
    file: Path, path: str, split: str, columns: Columns, numbers: dict[str, int]
) -> Iterator[Item]:
    row = 0
    names = list(dict.fromkeys([columns.image, columns.label]))
    for batch in _batches(file, names):
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
                path=f"{path}#{row}",
                label=-1 if name is None else numbers[name],
                split=split,
                content=None if reason else content,
                reason=reason,
            )
            row += 1
