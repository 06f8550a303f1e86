"""Which columns of a table hold images and labels; knows its schema only."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trainables.errors import UserError

IMAGE_NAMES = ("image", "images", "img", "bytes", "image_bytes", "picture", "photo")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "category")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what; names are the label's class names, where the file knows them."""

    image: str
    label: str
    names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, table: str) -> Columns:
    """Find the columns of a table, by what they hold, what the metadata says and their names.

    Raises:
        UserError: there is none for images or labels, or there are several; it names ``table``.
    """
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
                f"{table} has no column, or several, that may hold the {kind}s; its columns are"
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
