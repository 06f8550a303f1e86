"""Read a file of settings that a person wrote, in YAML or JSON, and guess nothing.

YAML is read by the core schema of YAML 1.2: ``1e-4`` is a number, ``no`` and ``off`` are words, and
``010`` is ten. A name that is given twice, an alias and a tag are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trainables.errors import UserError, printable

MAX_BYTES = 1_000_000  # far more than anybody writes
_TAG = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema in place of YAML 1.1's."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - declared so by PyYAML
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless it is an alias: a few lines of them are gigabytes."""
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem="an alias is not taken", problem_mark=mark)
        return super().compose_node(parent, index)


def _mapping(loader: _CoreLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in found:
            problem = f"{key} is given twice" if isinstance(key, str) else "a name is no text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _sequence(loader: _CoreLoader, node: Any) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _text(loader: _CoreLoader, node: Any) -> str:
    return str(loader.construct_scalar(node))


def _integer(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 10)


def _number(loader: _CoreLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


def _truth(loader: _CoreLoader, node: yaml.ScalarNode) -> bool:
    return loader.construct_scalar(node).lower() == "true"


def _unknown(loader: _CoreLoader, node: yaml.Node) -> None:
    raise yaml.MarkedYAMLError(problem="a tag is not taken", problem_mark=node.start_mark)


# The constructor of each kind of scalar, what it looks like, and what it begins with.
_SCALARS: Sequence[tuple[str, Any, str, str]] = (
    ("null", lambda *_: None, r"~|null|Null|NULL|", "~nN\0"),
    ("bool", _truth, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", _integer, r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        _number,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
for _kind, _constructor, _pattern, _first in _SCALARS:
    _CoreLoader.add_constructor(_TAG + _kind, _constructor)
    _CoreLoader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$"), list(_first))
_CoreLoader.add_implicit_resolver(_TAG + "null", re.compile("^$"), [""])
_CoreLoader.add_constructor(_TAG + "str", _text)
_CoreLoader.add_constructor(_TAG + "seq", _sequence)
_CoreLoader.add_constructor(_TAG + "map", _mapping)
_CoreLoader.add_constructor(None, _unknown)


def read_settings(path: Path, option: str) -> Any:
    """Read a file as what JSON knows: names that end in .json as JSON, all others as YAML.

    Args:
        option: that names the file, for the error: "--space".

    Raises:
        UserError: the file cannot be read, or is neither.
    """
    name = f"{option} {printable(str(path))}"
    try:
        with path.expanduser().open("rb") as file:
            read = file.read(MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path"
        raise UserError(f"{name} cannot be read ({reason}): name a file of YAML or JSON.") from None
    if len(read) > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES:,} bytes: name a file of settings.")
    try:
        text = read.decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_unique)
        return _CoreLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{name} cannot be read ({_reason(error)}): correct it there.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is given twice")
    return found


def _reason(error: Exception) -> str:
    """Say in a few words what is wrong, and in which line."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    words = " ".join(printable(str(problem or error)).split())[:200]
    return f"line {mark.line + 1}: {words}" if mark is not None else words
