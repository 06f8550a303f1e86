"""Options in a file: their names and values, which those on the command line override."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from sweeps.planning.options.settings_file import read_settings
from sweeps.planning.options.words import field_docs, option
from sweeps.redaction import redacted_values
from trainables.errors import UserError
from trainables.storage.hashing import to_jsonable

CONFIG = "--config"
OWN = ("config", "print_config", "status")  # these say nothing of a sweep
Value = str | int | float | bool | None | list[Any]


def read_config(path: Path, known: Collection[str]) -> dict[str, Value]:
    """Read a file of options, YAML or JSON: a mapping of their names to their values.

    Args:
        known: the names of the fields that are options.

    Raises:
        UserError: it cannot be read, or something in it is no option.
    """
    given = read_settings(path, CONFIG)
    if not isinstance(given, Mapping):
        raise UserError(f"{CONFIG} {path} holds no options: write one a line, as `epochs: 30`.")
    return by_field(given, known, f"{CONFIG} {path} gives")


def by_field(given: Mapping[str, Any], known: Collection[str], source: str) -> dict[str, Value]:
    """Check that names are those of options, and give the values by the names of their fields.

    Names are those of the command line, without the leading dashes; with underscores too.

    Args:
        known: the names of the fields that are options.
        source: begins what is said of one that is none.

    Raises:
        UserError: something in it is no option.
    """
    names = {option(name).lstrip("-"): name for name in known if name not in OWN}
    found: dict[str, Value] = {}
    for written, value in given.items():
        name = names.get(written.replace("_", "-"))
        if name is None:
            close = get_close_matches(written.replace("_", "-"), names, 1)
            hint = f"did you mean {close[0]}?" if close else "--help lists all options."
            raise UserError(f"{source} {written}, which is no option: {hint}")
        if isinstance(value, Mapping) or name in found:
            what = "twice" if name in found else "entries of its own"
            raise UserError(f"{source} {written} {what}: give it one value.")
        found[name] = value
    return found


def as_words(config: Mapping[str, Value], defaults: Mapping[str, Any]) -> list[str]:
    """Write options of a file as the words of a command line.

    Those that are null, or at their defaults, are left out.

    Args:
        defaults: of all options, as JSON values by their fields' names.
    """
    words = []
    for name, value in config.items():
        default = defaults[name]
        if value is None or value == default:
            continue
        if isinstance(default, bool):
            words.append(option(f"no_{name}" if value is False else name))
        elif isinstance(value, list):
            words += [option(name), *map(str, value)]
        else:
            words.append(f"{option(name)}={value}")
    return words


def in_yaml(spec: Any, files: Mapping[str, str]) -> str:
    """Write all options of a spec as a file that :func:`read_config` reads, each with its help.

    Secrets are masked.

    Args:
        spec: a dataclass of groups of options.
        files: the paths of options whose values are read from files, by the fields' names.
    """
    return "\n".join(_lines(spec, files))


def _lines(spec: Any, files: Mapping[str, str]) -> Iterator[str]:
    for declared in fields(spec):
        group = getattr(spec, declared.name)
        docs, values = field_docs(type(group)), redacted_values(to_jsonable(group))
        yield f"# --- {inspect.getdoc(type(group))}"
        for name, value in (values | {n: files[n] for n in values.keys() & files}).items():
            if name not in OWN:
                yield f"# {docs[name]}"
                yield f"{option(name).lstrip('-')}: {_in_one_line(value)}"
        yield ""


def _in_one_line(value: Value) -> str:
    written = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return written.removesuffix("...\n").rstrip("\n")


def typed_names(argv: Sequence[str]) -> set[str]:
    """List the options that are on a command line, as they stand there: "--train-res"."""
    return {word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
