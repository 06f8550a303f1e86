"""Errors whose message is for people, and how a command line words the settings they name.

A message names a setting in backquotes by its field, as in "choose a smaller `cache_side`": only a
command line knows what its user calls it.
"""

from __future__ import annotations

import io
import os
import re
import select
import signal
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import IO

_CONTROL = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # categories of Unicode that show nothing
# What a shell says of a tool that ended as its output was closed: the code of `... | head`.
OUTPUT_CLOSED = 128 + signal.SIGPIPE


class UserError(Exception):
    """Bad input. The message is one sentence: what was given, what is wrong with it, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class ReplacedError(UserError):
    """Another process has taken over what this one was writing, which writes nothing more."""


class SweepError(Exception):
    """The sweep cannot come to a result, though its input is good. Exit code 1."""


class IncompleteError(Exception):
    """The work is done and its results are written, but parts of them failed. Exit code 3."""


def with_option_names(message: str, names: Mapping[str, str]) -> str:
    """Replace each setting that ``message`` names in backquotes by what its user calls it.

    Args:
        message: of an error, or a trace that ends with one.
        names: field name -> option, or plain words where there is no option. What is in backquotes
            and not among them stays as it is.
    """
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)


def printable(name: str) -> str:
    r"""Escape what is no UTF-8 in a file's name, and control characters, as \xe9 and \n.

    Other names stay as they are. A name with bytes that are no UTF-8 can be neither printed nor
    written into a file of text.
    """
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _CONTROL else c
        for c in text
    )


def is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8: a file's name may hold any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def exit_code(work: Callable[[], object], wording: Callable[[str], str]) -> int:
    """Do a command's work, and tell an error that is for people in one line on stderr.

    Args:
        work: all of it, the reading of options too, which may end with :class:`SystemExit`.
        wording: puts a message into the command's own words, such as its options.

    Returns:
        The exit code: 0, 2 for a :class:`UserError`, 1 for a :class:`SweepError`, 3 for an
        :class:`IncompleteError`, that of a :class:`SystemExit`, and ``OUTPUT_CLOSED`` where nobody
        reads the output any longer.
    """
    for stream in _streams():
        if isinstance(stream, io.TextIOWrapper):  # A terminal need not have every letter of a name.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _code_of(work, wording)
        for stream in _streams():
            stream.flush()
    except BrokenPipeError:
        if not any(map(_is_closed, _streams())):
            raise  # It is another pipe, and a fault of ours.
        _discard_output()
        return OUTPUT_CLOSED
    return code


def _code_of(work: Callable[[], object], wording: Callable[[str], str]) -> int:
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as error:
        print(f"error: {_in_one_line(wording(str(error)))}", file=sys.stderr)
        return 2
    except SweepError as error:
        print(f"failed: {_in_one_line(wording(str(error)))}", file=sys.stderr)
        return 1
    except IncompleteError as error:
        print(f"incomplete: {_in_one_line(wording(str(error)))}", file=sys.stderr)
        return 3
    return 0


def _in_one_line(message: str) -> str:
    """Escape the line breaks and control characters of names that a message holds."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in message
    )


def _streams() -> list[IO[str]]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream]  # None: begun without it


def _is_closed(stream: IO[str]) -> bool:
    """Whether a stream of this process is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLERR)
        return any(state & select.POLLERR for _, state in poll.poll(0))
    except (OSError, ValueError):  # It is no file of the system's.
        return False


def _discard_output() -> None:
    """Send what is still to be written nowhere, which Python would try again when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in filter(_is_closed, _streams()):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
