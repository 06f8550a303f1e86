"""Tables of any schema are read as an independent reading has them, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainables.errors import UserError
from trainables.sources.class_names import plain_name
from trainables.sources.folders import scan
from trainables.sources.source import Source
from trainables.sources.tables import table_source

ROWS = 6
NAMES = st.sampled_from(("image", "img", "bytes", "label", "labels", "class", "x", "é", ""))
WORDS = st.sampled_from(("cat", "dog", "Cat", "e\u0301", "\u00e9", " cat", "", "0", "a\nb", "7"))
NUMBERS = st.integers(-1, 4)
BYTES = st.binary(max_size=6)


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    either = st.one_of(values, values, st.none())
    return st.lists(values, min_size=ROWS, max_size=ROWS) | st.lists(
        either, min_size=ROWS, max_size=ROWS
    )


def column(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    return nullable(values).map(lambda given: pa.array(given, kind))


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STRUCTS = st.fixed_dictionaries({"bytes": st.none() | BYTES, "path": st.none() | WORDS})
IMAGES = st.one_of(
    column(pa.binary(), BYTES),
    column(pa.large_binary(), BYTES),
    column(STRUCT, STRUCTS),
)
LABELS = st.one_of(
    *(column(kind, NUMBERS) for kind in (pa.int64(), pa.int8())),
    *(column(kind, st.integers(0, 4)) for kind in (pa.uint8(), pa.uint64())),
    column(pa.string(), WORDS),
    column(pa.large_string(), WORDS),
    column(pa.string(), WORDS).map(lambda array: array.dictionary_encode()),
    column(pa.int32(), NUMBERS).map(lambda array: array.dictionary_encode()),
)
ODD = st.one_of(
    column(pa.float64(), st.floats()),
    column(pa.bool_(), st.booleans()),
    column(pa.list_(pa.int64()), st.lists(NUMBERS, max_size=2)),
    column(pa.list_(pa.binary()), st.lists(BYTES, max_size=2)),
    column(pa.timestamp("ns"), st.integers(0, 2**40)),
    column(pa.binary(4), st.binary(min_size=4, max_size=4)),
    column(pa.struct([("path", pa.string())]), st.fixed_dictionaries({"path": WORDS})),
    column(pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(WORDS, NUMBERS), max_size=2)),
    column(pa.decimal128(5, 2), st.decimals(-9, 9, places=2, allow_nan=False)),
    st.just(pa.nulls(ROWS)),
)
LABEL_KINDS = (
    *("int64", "int8", "uint8", "uint64", "int32", "string", "large_string"),
    "dictionary<values=string, indices=int32, ordered=0>",
    "dictionary<values=int32, indices=int32, ordered=0>",
)
FEATURES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.dictionaries(
        NAMES,
        st.one_of(
            st.fixed_dictionaries(
                {"_type": st.just("ClassLabel"), "names": st.lists(WORDS, max_size=6)}
            ),
            st.just({"_type": "Image"}),
            st.sampled_from(({"_type": "ClassLabel"}, {"names": 3}, [], "ClassLabel", None)),
        ),
        max_size=3,
    ),
    st.sampled_from((b"no json", b"[]", b'{"info": []}', b"\xff")),
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Mostly a column of images and one of labels, with others beside them; any at times."""
    columns: dict[str, pa.Array] = {}
    if draw(st.integers(0, 4)):
        columns[draw(st.sampled_from(("image", "img", "x")))] = draw(IMAGES)
        columns[draw(st.sampled_from(("label", "labels", "class")))] = draw(LABELS)
    extra = draw(st.lists(st.tuples(NAMES, st.one_of(IMAGES, LABELS, ODD)), max_size=2))
    pairs = [*columns.items(), *extra]  # a name may stand twice
    table = pa.Table.from_arrays([array for _, array in pairs], [name for name, _ in pairs])
    features = draw(FEATURES)
    if features is None:
        return table
    written = features if isinstance(features, bytes) else huggingface(features)
    return table.replace_schema_metadata({"huggingface": written})


def huggingface(features: Mapping[str, Any]) -> str:
    return json.dumps({"info": {"features": features}}, ensure_ascii=False)


def write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=4)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def read(written: Mapping[str, pa.Table]) -> Source | str:
    """The source of files, with their items read; or why it is none."""
    folder = Path(tempfile.mkdtemp())
    try:
        for name, table in written.items():
            write(table, folder / name)
        try:
            source = table_source(scan(folder))
            items = list(source.items())
            list(source.sample())
        except UserError as error:
            return str(error).replace(str(folder), "FOLDER")
        return Source(**{**vars(source), "items": lambda: iter(items)})
    finally:
        shutil.rmtree(folder)


def expected_classes(table: pa.Table, label: str) -> list[str | None]:
    """The class of each row, by what the columns mean, worked out on Python's own values."""
    features: dict[str, Any] = {}
    if table.schema.metadata:
        try:
            features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        except (ValueError, TypeError, KeyError):
            features = {}
    feature = features.get(label)
    names = None
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        declared = feature.get("names")
        names = declared if isinstance(declared, list) and declared else None
    found: list[str | None] = []
    for value in table.column(label).to_pylist():
        if value is None or (isinstance(value, int) and value < 0):
            found.append(None)
        elif isinstance(value, str) or names is None:
            found.append(str(value))
        else:
            found.append(names[value] if value < len(names) else None)
    return found


def columns_read(table: pa.Table) -> tuple[str, str]:
    """The columns that tables which were taken must have been read by, from the first of them."""
    named = list(zip(table.schema.names, table.schema.types, strict=True))
    images = [name for name, kind in named if str(kind) in ("binary", "large_binary", str(STRUCT))]
    known = [name for name in images if name in ("image", "img", "bytes")]
    declared = [name for name in images if f'"{name}": {{"_type": "Image"' in metadata_of(table)]
    image = next(names[0] for names in (known, declared, images) if len(set(names)) == 1)
    labels = [name for name, kind in named if str(kind) in LABEL_KINDS]
    known = [name for name in labels if name in ("label", "labels", "class")]
    declared = [
        name for name in labels if f'"{name}": {{"_type": "ClassLabel"' in metadata_of(table)
    ]
    return image, next(names[0] for names in (known, declared) if len(set(names)) == 1)


def metadata_of(table: pa.Table) -> str:
    written: bytes = (table.schema.metadata or {}).get(b"huggingface", b"")
    return written.decode("utf-8", errors="replace")


def check(written: Mapping[str, pa.Table]) -> None:
    result = read(written)
    if isinstance(result, str):
        assert result.endswith(".") and len(result) > 20 and "Traceback" not in result
        return
    assert len(set(map(plain_name, result.classes))) == len(result.classes) >= 2
    items = list(result.items())
    assert len(items) == result.total == sum(table.num_rows for table in written.values())
    in_files = {
        f"{name}#{row}": (table, row)
        for name, table in written.items()
        for row in range(table.num_rows)
    }
    assert {item.path for item in items} == in_files.keys()
    image, label = columns_read(next(iter(written.values())))
    for item in items:
        table, row = in_files[item.path]
        name = expected_classes(table, label)[row]
        content = table.column(image).to_pylist()[row]
        content = content.get("bytes") if isinstance(content, dict) else content
        if item.reason:
            assert item.content is None and (name is None or content is None)
            continue
        assert plain_name(result.classes[item.label]) == plain_name(str(name))
        assert item.content == content is not None


BOUNDED = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
SUFFIXES = st.sampled_from((".parquet", ".arrow"))


@BOUNDED
@given(tables(), SUFFIXES)
def test_a_table_is_read_as_it_is_meant_or_refused(table: pa.Table, suffix: str) -> None:
    check({f"data{suffix}": table})


@BOUNDED
@given(tables(), tables(), SUFFIXES)
def test_two_tables_are_read_each_by_its_own_names_or_refused(
    first: pa.Table, second: pa.Table, suffix: str
) -> None:
    check({f"train-0{suffix}": first, f"train-1{suffix}": second})


@BOUNDED
@given(IMAGES, LABELS, LABELS, st.lists(WORDS, min_size=5, max_size=5, unique=True), SUFFIXES)
def test_common_tables_with_names_of_classes_are_read_or_refused(
    images: pa.Array, labels: pa.Array, others: pa.Array, names: list[str], suffix: str
) -> None:
    feature = {"_type": "ClassLabel"}
    written = {}
    for number, (column, declared) in enumerate(((labels, names), (others, names[::-1]))):
        table = pa.table({"image": images, "label": column})
        metadata = huggingface({"label": {**feature, "names": declared}})
        written[f"train-{number}{suffix}"] = table.replace_schema_metadata(
            {"huggingface": metadata}
        )
    check(written)
