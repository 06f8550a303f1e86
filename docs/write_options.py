"""Write the tables of options in docs/options.md from the options' own declarations.

    python docs/write_options.py            rewrites what stands below the line GENERATED
    python docs/write_options.py --check    exits with 1 where that would change the file

The tables have each field of the option dataclasses: name, values, default and docstring, as
``--help`` shows them; and the defaults that the built-in digits, the recipes and frozen batch norms
have of their own.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

if __name__ == "__main__":  # its own folder is first on the path, not the project's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweeps.planning.options.words import field_docs, option
from sweeps.planning.recipes import RECIPES, builtin_digits
from sweeps.planning.spec import SweepSpec
from sweeps.select_best import SelectOptions

PAGE = Path(__file__).with_name("options.md")
GENERATED = "<!-- Generated below this line by docs/write_options.py (make docs): do not edit. -->"
ONE = {int: "an integer", float: "a number", str: "text", Path: "a path"}
SEVERAL = {int: "integers", float: "numbers", str: "words", Path: "paths"}


def page(written: str) -> str:
    """The page with its tables made anew; what stands above the line stays."""
    above, line, _ = written.partition(GENERATED)
    if not line:
        raise SystemExit(f"{PAGE} has no line {GENERATED}")
    return above + GENERATED + "\n\n" + "\n".join(_tables()) + "\n"


def _tables() -> Iterator[str]:
    yield from ("## Options of `fixres_grid.py`", "")
    yield "An option that takes nothing is a switch, off unless it is given."
    yield from _table_of_each_group(SweepSpec)
    yield from ("", "## Defaults that follow from other options", "")
    yield "The options that are not named here have the defaults above."
    yield from _differing_defaults()
    yield from ("", "## Options of `select_best.py`")
    yield from _table_of_each_group(SelectOptions)


def _table_of_each_group(options: type) -> Iterator[str]:
    """A table of the fields that are options; then one for each group of options among them."""
    own = [f for f in fields(options) if not is_dataclass(_default(f))]
    if own:
        yield from _table(options, own)
    for field in fields(options):
        group = type(_default(field))
        if is_dataclass(group):
            yield from ("", f"### {inspect.getdoc(group)}")
            yield from _table_of_each_group(group)


def _table(options: type, own: list[Field[Any]]) -> Iterator[str]:
    hints, docs = get_type_hints(options), field_docs(options)
    yield from ("", "| option | takes | default | |", "|---|---|---|---|")
    for field in own:
        cells = (_flag(field), _values(hints[field.name]), _shown(_default(field)))
        yield f"| {' | '.join(cells)} | {docs[field.name].replace('|', chr(92) + '|')} |"


def _differing_defaults() -> Iterator[str]:
    plain = _flat(SweepSpec())
    named = {"Without `--data`": builtin_digits}
    named |= {f"`--recipe {name}`": make for name, make in RECIPES.items()}
    made = {title: (make, make()) for title, make in named.items()}
    for title, (make, spec) in made.items():
        (about, *_) = (inspect.getdoc(make) or "").split("\n\n")
        own = ", ".join(_own(_flat(spec), plain))
        yield from ("", f"**{title}**: {' '.join(about.split())} {own}.")


def _own(found: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """The options whose defaults are others than the plain ones."""
    names = [name for name in found if found[name] != plain[name] and name != "recipe"]
    return [f"`{option(name)} {_words(found[name])}`" for name in names]


def _flat(options: Any) -> dict[str, Any]:
    """All fields by their names, those of groups among them."""
    flat: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        flat |= _flat(value) if is_dataclass(value) else {field.name: value}
    return flat


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _flag(field: Field[Any]) -> str:
    negative = "no_" if _default(field) is True else ""
    return f"`{option(negative + field.name)}`"


def _values(hint: Any) -> str:
    """What may be given, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Mapping or (origin is tuple and get_origin(inner[0]) is Mapping):
        return "a file"
    if origin in (Union, types.UnionType):
        return ", or ".join(_values(one) for one in inner if one is not type(None))
    if origin is Literal:
        return _choices(inner)
    if origin is not tuple:
        return "" if hint is bool else ONE[hint]
    if inner[-1] is not Ellipsis:
        assert inner == (float, float), "a range"
        return "two numbers"
    if get_origin(inner[0]) is Literal:
        return f"some of {_choices(get_args(inner[0]))}"
    if get_origin(inner[0]) in (Union, types.UnionType):
        kinds = [i for i in get_args(inner[0]) if get_origin(i) is not Literal]
        words = [i for i in get_args(inner[0]) if get_origin(i) is Literal]
        return ", ".join([*(SEVERAL[kind] for kind in kinds), *map(_values, words)])
    return SEVERAL[inner[0]]


def _choices(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(default: Any) -> str:
    if default is MISSING:
        return "required"
    if default is None or default == () or isinstance(default, bool):
        return ""
    return f"`{_words(default)}`"


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Exit code: 1 where the file is to change and only a check is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    written = PAGE.read_text(encoding="utf-8")
    fresh = page(written)
    if not check:
        PAGE.write_text(fresh, encoding="utf-8")
    return int(check and fresh != written)


if __name__ == "__main__":
    sys.exit(main())
