"""Find the columns of a table that hold images and labels, by its schema alone."""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from trainables.errors import UserError

IMAGE_NAMES = ("image", "images", "img", "bytes", "image_bytes", "picture", "photo")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "category")
IMAGE_REMEDY = "the bytes of the image files, or a struct with them"
LABEL_REMEDY = "integers or text"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that hold images and labels, by their names."""

    image: str
    label: str
    names: tuple[str, ...] | None  # class names by label, where the file has them
    group: str | None = None  # of images that belong together


def find_columns(schema: pa.Schema, table: str, group: str | None = None) -> Columns:
    """Find the columns of a table, by what they hold, what the metadata says and their names.

    Args:
        group: the column that names what belongs together, if there is to be one.

    Raises:
        UserError: no column, or several, may hold the images or the labels of ``table``, two are of
            such a name, or it has no such column of groups.
    """
    _check_named_once(schema, (*IMAGE_NAMES, *LABEL_NAMES), table)
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
    if image is None:
        raise _unclear(schema, table, "images", IMAGE_NAMES, images, IMAGE_REMEDY)
    if label is None:
        raise _unclear(schema, table, "labels", LABEL_NAMES, labels, LABEL_REMEDY)
    _check_named_once(schema, (image, label), table)
    names = _declared_names(schema, label, table)
    columns = Columns(image=image, label=label, names=names, group=group)
    return columns_of(schema, columns, table)


def columns_of(schema: pa.Schema, like: Columns, table: str) -> Columns:
    """Give the same columns of another table, with that table's own class names.

    A table need not have the column of labels.

    Raises:
        UserError: a class is named twice, or a column, or the column of groups is missing or holds
            no words.
    """
    _check_named_once(
        schema, [name for name in (like.image, like.label, like.group) if name], table
    )
    group = like.group
    if group is not None and group not in schema.names:
        raise UserError(
            f"`group_by` {group} is no column of {table}: name one of {', '.join(schema.names)}."
        )
    if group is not None and not _is_label(schema.field(group).type):
        raise _wrong_type(schema, table, group, LABEL_REMEDY)
    return replace(like, names=_declared_names(schema, like.label, table))


def has_groups(schema: pa.Schema, group: str) -> bool:
    """Whether a table has one column of a name, and that can name what belongs together."""
    return schema.names.count(group) == 1 and _is_label(schema.field(group).type)


def _check_named_once(schema: pa.Schema, names: Collection[str], table: str) -> None:
    twice = [name for name, count in Counter(schema.names).items() if count > 1 and name in names]
    if twice:
        raise UserError(
            f"{table} has several columns named {twice[0] or 'by nothing'}: give each a name of its"
            " own."
        )


def without_odd_types(labels: list[Any], schema: pa.Schema, column: str, table: str) -> list[Any]:
    """Give the labels of a table; all None where a column of numbers that are no labels is empty.

    Raises:
        UserError: the column holds something else than integers or text.
    """
    if _is_label(schema.field(column).type):
        return labels
    if any(label is not None and label == label for label in labels):  # NaN stands for none
        raise _wrong_type(schema, table, column, LABEL_REMEDY)
    return [None] * len(labels)


def _declared_names(schema: pa.Schema, label: str, table: str) -> tuple[str, ...] | None:
    """The class names that the metadata gives to the numbers of a column; None: there are none.

    Raises:
        UserError: it names a class twice.
    """
    if label not in schema.names or not _is_label(schema.field(label).type):
        return None
    feature = _features(schema).get(label, {})
    declared = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    if not isinstance(declared, list) or not declared:
        return None
    names = tuple(map(str, declared))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{table} names the class {twice[0]} of its column {label} twice: give each class a"
            " name of its own."
        )
    return names


def _wrong_type(schema: pa.Schema, table: str, column: str, remedy: str) -> UserError:
    return UserError(f"Column {column} of {table} is {schema.field(column).type}: give {remedy}.")


def _unclear(
    schema: pa.Schema,
    table: str,
    what: str,
    known_names: tuple[str, ...],
    fitting: set[str],
    remedy: str,
) -> UserError:
    """Word the error that no column, or several, may be meant.

    Args:
        fitting: the columns whose type may hold what is looked for.
    """
    named = [name for name in known_names if name in schema.names]
    if named and not fitting & set(named):  # the column is there, and holds something else
        return _wrong_type(schema, table, named[0], remedy)
    columns = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    return UserError(
        f"{table} has no column, or several, that may hold the {what}; its columns are"
        f" {columns or 'none'}: name exactly one of them {' or '.join(known_names[:3])}."
    )


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Read the Hugging Face metadata on each column; empty where there is none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def _feature_type(features: dict[str, Any], name: str) -> Any:
    return features.get(name, {}).get("_type")


def _short(data_type: pa.DataType) -> str:
    return "struct" if pa.types.is_struct(data_type) else str(data_type)


def _is_bytes(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(data_type)
        or pa.types.is_large_binary(data_type)
        or pa.types.is_binary_view(data_type)
    )


def _is_image(data_type: pa.DataType) -> bool:
    if pa.types.is_struct(data_type):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in data_type.fields)
    return _is_bytes(data_type)


def _is_label(data_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    return bool(
        pa.types.is_integer(data_type)
        or pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )
