"""Turn values into JSON, and hash them: what the keys of a store are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ADDED_LATER = "added later"


def added_later(default: Any) -> Any:
    """Declare a field that a dataclass of a key has got since its keys were first stored.

    At its default such a field does not enter the key, so that what is in the store under the
    former key is still found; at any other value it does.

    Args:
        default: immutable; the value that stands for what was done before the field was there.
    """
    return dataclasses.field(default=default, metadata={_ADDED_LATER: True})


def to_jsonable(value: Any) -> Any:
    """Turn dataclasses, mappings, tuples and paths into what JSON knows, all fields included."""
    return _convert(value, for_key=False)


def canonical_json(value: Any) -> str:
    """Write the one JSON text of a value: sorted keys, no spaces, floats by their shortest repr."""
    return _dumps(to_jsonable(value))


def content_hash(*parts: Any) -> str:
    """Hash the canonical JSON of ``parts``: 16 hex characters (64 bits of SHA-256).

    Fields that were :func:`added_later` are left out where they are at their defaults.
    """
    text = _dumps(_convert(list(parts), for_key=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_key(text: object) -> bool:
    """Whether a text may be a key that :func:`content_hash` has made."""
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{16}", text) is not None


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _convert(value: Any, *, for_key: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if for_key:
            shown = {k: v for k, v in shown.items() if not _is_unchanged(value, k, v)}
        return {name: _convert(v, for_key=for_key) for name, v in shown.items()}
    if isinstance(value, Mapping):
        return {str(k): _convert(v, for_key=for_key) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_convert(v, for_key=for_key) for v in value]
    return str(value) if isinstance(value, Path) else value


def _is_unchanged(owner: Any, name: str, value: Any) -> bool:
    """Whether the field was added later and is at its default."""
    (field,) = (field for field in dataclasses.fields(owner) if field.name == name)
    return bool(field.metadata.get(_ADDED_LATER)) and value == field.default
