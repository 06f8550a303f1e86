"""The columns of images and labels, found by types, metadata and names."""

import json

import pyarrow as pa
import pytest

from trainables.errors import UserError
from trainables.sources.table_schema import Columns, columns_of, find_columns

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def with_features(schema, features):
    """The schema with the metadata that the Hugging Face hub writes."""
    text = features if isinstance(features, str) else json.dumps({"info": {"features": features}})
    return schema.with_metadata({"huggingface": text})


@pytest.mark.parametrize("image", [IMAGE, pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize(
    "label",
    [
        pa.int8(),
        pa.uint64(),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_columns_are_found_by_type_and_name(image, label):
    schema = pa.schema({"id": pa.int64(), "photo": image, "target": label, "weight": pa.float32()})
    assert find_columns(schema, "t") == Columns(image="photo", label="target", names=None)


def test_a_column_of_images_of_any_name_is_taken_where_it_is_the_only_one():
    schema = pa.schema({"scan": IMAGE, "label": pa.int64()})
    assert find_columns(schema, "t").image == "scan"


def test_fine_labels_are_taken_of_two():
    schema = pa.schema({"img": pa.binary(), "fine_label": pa.int64(), "coarse_label": pa.int64()})
    assert find_columns(schema, "t").label == "fine_label"


def test_metadata_decides_where_names_do_not_and_gives_the_class_names():
    schema = pa.schema({"mask": IMAGE, "scan": IMAGE, "id": pa.int64(), "kind": pa.int64()})
    features = {
        "mask": {"_type": "Value"},
        "scan": {"_type": "Image"},
        "kind": {"_type": "ClassLabel", "names": ["ant", "bee"]},
    }
    assert find_columns(with_features(schema, features), "t") == Columns(
        image="scan", label="kind", names=("ant", "bee")
    )


@pytest.mark.parametrize("features", ["no JSON", "[]", '{"info": null}', {"label": "odd"}, []])
def test_metadata_that_cannot_be_read_is_ignored(features):
    schema = with_features(pa.schema({"image": IMAGE, "label": pa.int64()}), features)
    assert find_columns(schema, "t") == Columns(image="image", label="label", names=None)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (
            {"a": pa.int64(), "label": pa.int64()},
            r"t has no column, .* hold the images; its columns are a \(int64\), label \(int64\):"
            " name exactly one of them image or images or img.",
        ),
        (
            {"a": pa.binary(), "b": IMAGE, "label": pa.int64()},
            r"or several, that may hold the images; its columns are a \(binary\), b \(struct\)",
        ),
        (
            {"image": pa.binary(), "size": pa.int64()},
            "hold the labels; .*name exactly one of them label or labels or class.",
        ),
        (
            {"image": pa.binary(), "label": pa.int64(), "class": pa.int64()},
            "or several, that may hold the labels",
        ),
        (
            {"image": pa.struct({"path": pa.string()}), "label": pa.int64()},
            r"^Column image of t is struct<path: string>: give the bytes of the image files",
        ),
        (
            {"image": pa.string(), "label": pa.int64()},
            "^Column image of t is string: give the bytes of the image files, or a struct with",
        ),
        *(
            ({"image": pa.binary(), "label": kind}, r"^Column label of t is \S.*: give integers or")
            for kind in (pa.float64(), pa.float32(), pa.bool_(), pa.list_(pa.int64()))
        ),
        ({"image": pa.binary(), "label": pa.decimal128(3)}, "^Column label of t is decimal128"),
        ({"image": pa.binary(), "target": pa.float64()}, "^Column target of t is double: give int"),
        ({}, "its columns are none"),
    ],
)
def test_unclear_columns_are_refused(types, message):
    with pytest.raises(UserError, match=message):
        find_columns(pa.schema(types), "t")


@pytest.mark.parametrize(
    ("pairs", "name"),
    [
        ([("image", IMAGE), ("label", pa.int8()), ("label", pa.int8())], "label"),
        ([("image", pa.int8()), ("image", pa.int8())], "image"),
        ([("x", IMAGE), ("x", IMAGE), ("label", pa.int8())], "x"),
    ],
)
def test_columns_of_one_name_are_refused(pairs, name):
    with pytest.raises(UserError, match=rf"^t has several columns named {name}: give each a name"):
        find_columns(pa.schema(pairs), "t")
    with pytest.raises(UserError, match=rf"^t has several columns named {name}"):
        columns_of(pa.schema(pairs), Columns(image=name, label="label", names=None), "t")


def test_other_columns_may_be_of_one_name():
    schema = pa.schema([("image", IMAGE), ("label", pa.int8()), ("id", pa.int8()), ("id", IMAGE)])
    assert find_columns(schema, "t").image == "image"
