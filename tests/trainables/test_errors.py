"""What errors call settings: fields in backquotes, for a command line to reword."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables import train
from trainables.errors import UserError, exit_code, is_utf8, printable, with_option_names

PACKAGE = Path(train.__file__).parent
NAMES = {"cache_side": "--cache-side", "variant": "--variants"}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`variant` b9 is unknown.", "--variants b9 is unknown."),
        ("Take a smaller `cache_side`, a `variant`.", "Take a smaller --cache-side, a --variants."),
        ("No `such_setting` here.", "No `such_setting` here."),
        ("The variant and its cache_side.", "The variant and its cache_side."),
        ("Trace\n  of UserError: `variant` b9", "Trace\n  of UserError: --variants b9"),
        ("`variant", "`variant"),
    ],
)
def test_settings_in_backquotes_are_reworded_and_nothing_else(message: str, shown: str) -> None:
    assert with_option_names(message, NAMES) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9.jpg", r"caf\xe9.jpg"),
        ("café \u3000日本.jpg".encode(), "café \u3000日本.jpg"),
        (b"a\tb\nc", r"a\tb\nc"),
        ("a\u2028b\u202ec".encode(), r"a\u2028b\u202ec"),
    ],
)
def test_names_are_printable_and_stay_as_they_are_where_they_can(name: bytes, shown: str) -> None:
    assert printable(os.fsdecode(name)) == shown
    assert is_utf8(os.fsdecode(name)) == (name != b"caf\xe9.jpg")


def test_letters_that_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def work() -> None:
        print("café \udce9", flush=True)
        raise UserError("日本")

    assert exit_code(work, str) == 2
    streams[1].flush()
    said = [stream.buffer.getvalue() for stream in streams]
    assert said == [b"caf\\xe9 \\udce9\n", b"error: \\u65e5\\u672c\n"]


def messages() -> Iterator[str]:
    """The texts, docstrings aside, of the modules that are no command line."""
    for path in PACKAGE.rglob("*.py"):
        if path.name == "train.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        constants = [node for node in nodes if isinstance(node, ast.Constant)]
        for node in constants:
            if isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


def test_the_core_names_no_options() -> None:
    assert [text for text in messages() if re.search(r"--[a-z]", text)] == []


def test_every_setting_that_the_core_names_has_words_when_one_trunk_is_trained_alone() -> None:
    named = {name for text in messages() for name in re.findall(r"`(\w+)`", text)}
    assert {"variant", "weights", "cache_side"} <= named <= set(train.SETTING_NAMES)
