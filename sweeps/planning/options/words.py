"""Write options as they are on the command line: their names, and their values."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any


def option(name: str) -> str:
    """Write a field's name as it is on the command line: "--train-res"; "try_" is "--try"."""
    return "the images" if name == "images" else f"--{name.rstrip('_').replace('_', '-')}"


def value_in_words(value: Any) -> str:
    """Write an option's value as it is on the command line: lists with spaces between.

    Of a file it is the content, in one line.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{n}: {_in_one_line(v)}" for n, v in value.items()) + "}"
    return " ".join(map(value_in_words, value)) if isinstance(value, list) else str(value)


def _in_one_line(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_in_one_line, value)) + "]"
    return value_in_words(value)


def field_docs(options: type) -> dict[str, str]:
    """Give the docstring of each field of a class of options, in one line."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for field, below in zip(declared.body, declared.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
