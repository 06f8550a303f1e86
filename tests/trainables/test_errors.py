"""What errors call settings: fields in backquotes, for a command line to reword."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import HANG_S
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


def test_an_error_is_one_line_whatever_names_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise UserError("The class folder x\ny\u2028z \x1b[31m caf\u00e9 is empty.")

    assert exit_code(work, str) == 2
    said = capsys.readouterr().err
    assert said == "error: The class folder x\\ny\\u2028z \\x1b[31m caf\u00e9 is empty.\n"


def run_unread(work: str, closed: str) -> tuple[int, bytes]:
    """Do ``work`` as a command whose stdout, stderr or another pipe is closed by its reader.

    Gives its exit code, and what it wrote to the others of the two.
    """
    lines = [
        "import os, sys",
        "from trainables.errors import UserError, exit_code",
        "def work():",
        f"    {work}",
        "sys.exit(exit_code(work, str))",
    ]
    read, unread = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=PACKAGE.parent,
        stdout=unread if closed == "stdout" else subprocess.PIPE,
        stderr=unread if closed == "stderr" else subprocess.PIPE,
        timeout=HANG_S,
    )
    os.close(unread)
    return done.returncode, (done.stdout or b"") + (done.stderr or b"")


OTHER_PIPE = "read, write = os.pipe(); os.close(read); os.write(write, b'x')"


@pytest.mark.parametrize(
    ("work", "closed", "code"),
    [
        ("print('help'); sys.exit(0)", "stdout", 141),
        ("print('x' * 100_000)", "stdout", 141),
        ("print('done')", "stdout", 141),
        ("raise UserError('Bad.')", "stderr", 141),
        ("raise UserError('Bad.')", "stdout", 2),
        ("sys.exit(2)", "stdout", 2),
        ("pass", "stdout", 0),
    ],
)
def test_an_output_that_nobody_reads_is_no_fault(work: str, closed: str, code: int) -> None:
    returned, said = run_unread(work, closed)
    assert returned == code
    assert said == (b"error: Bad.\n" if code == 2 and "UserError" in work else b"")


def test_another_pipe_that_breaks_is_a_fault() -> None:
    code, said = run_unread(OTHER_PIPE, "none")
    assert code == 1 and said.endswith(b"BrokenPipeError: [Errno 32] Broken pipe\n")


def test_a_command_may_begin_without_an_output() -> None:
    argv = [sys.executable, "-c", "import sys; from trainables.errors import exit_code\n"
            "sys.exit(exit_code(lambda: print('x'), str))"]  # fmt: skip
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *argv]
    assert subprocess.run(shell, cwd=PACKAGE.parent, timeout=HANG_S).returncode == 0


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
