"""Append to a file of JSON lines that one process at a time continues, and notice another.

A line goes to the place after the last one that this process knows of: the next number in an object
store, the end of the file in a folder. Where another line is there already, another process has
taken the log over, and nothing is written. A process that takes it over opens it with a line of its
own; so the one before is refused from then on, also if it stood still in between and knows nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.errors import ReplacedError
from trainables.storage import numbered_lines
from trainables.storage.files import Place, append_bytes, raw_lines
from trainables.storage.hashing import canonical_json
from trainables.storage.object_store import RemotePath
from trainables.storage.retry import with_retries

OPEN = "open"  # the event of a line that opens the log


def opening(epoch: int, driver: str) -> dict[str, Any]:
    """Make the line that opens a log.

    Args:
        epoch: grows with each process that takes the log over; 0: it is not known.
        driver: names the process in messages.
    """
    return {"event": OPEN, "epoch": epoch, "driver": driver}


def is_opening(line: Any) -> bool:
    """Whether a line says nothing but that the log was opened."""
    return isinstance(line, Mapping) and line.get("event") == OPEN


def has_lines(path: Place) -> bool:
    """Whether the log holds a line, readable or not, that says more than that it was opened."""
    lines = [line for line in raw_lines(path) if line.strip()]
    if isinstance(path, Path) and not lines:
        return path.exists()
    return any(not is_opening(_parsed(line)) for line in lines)


class FencedLog(ABC):
    """A log that this process continues from where it ends now. Its threads may share it."""

    def __init__(self, path: Place):
        self.path = path
        # Else a thread that looks while another appends takes that line for another process's.
        self._busy = threading.Lock()
        # What is being appended, as JSON. After an interrupt, which may come at any moment, it is
        # there or it is not: the next look says which.
        self._sent: str | None = None

    def open(self, epoch: int, driver: str) -> None:
        """Write the line after which every other process is refused; see :func:`opening`."""
        with self._busy:
            self._open(epoch, driver)

    def append(self, value: Any) -> None:
        """Append a line; it is there after a crash.

        Raises:
            ReplacedError: another process has written since; the line is not.
        """
        with self._busy:
            self._append(value)

    def check(self) -> None:
        """Look whether another process has written since.

        Raises:
            ReplacedError: it has.
        """
        with self._busy:
            self._check()

    @abstractmethod
    def _open(self, epoch: int, driver: str) -> None: ...

    @abstractmethod
    def _append(self, value: Any) -> None: ...

    @abstractmethod
    def _check(self) -> None: ...

    def _replaced(self, line: Any) -> ReplacedError:
        known = isinstance(line, Mapping) and line.get("driver")
        who = f"another sweep ({line['driver']})" if known else "another sweep"
        return ReplacedError(
            f"{self.path} was continued by {who} while this one stood still: this one has stopped "
            "and changed nothing since; wait for the other."
        )


def fenced_log(path: Place) -> FencedLog:
    """Take note of where a log ends, to continue it there."""
    return _ObjectLog(path) if isinstance(path, RemotePath) else _FileLog(path)


class _ObjectLog(FencedLog):
    """Lines are objects with numbers, each written only where there is none."""

    path: RemotePath

    def __init__(self, path: RemotePath):
        super().__init__(path)
        self._last, self._epoch = numbered_lines.last_number(path), 0
        self._writer = secrets.token_hex(8)

    def _open(self, epoch: int, driver: str) -> None:
        self._epoch = epoch
        line = opening(epoch, driver)
        # The driver before may write up to this moment: what it has written is read afterwards.
        while not numbered_lines.create_line(self.path, self._last + 1, line, self._writer):
            self._last += 1
        self._last += 1

    def _append(self, value: Any) -> None:
        if self._sent is not None:
            self._check()
        self._sent = canonical_json(value)
        while not numbered_lines.create_line(self.path, self._last + 1, value, self._writer):
            self._pass(numbered_lines.read_line(self.path, self._last + 1))
        self._last, self._sent = self._last + 1, None

    def _check(self) -> None:
        while (line := numbered_lines.read_line(self.path, self._last + 1)) is not None:
            if self._sent is not None and _parsed(line) == json.loads(self._sent):
                self._last += 1
            else:
                self._pass(line)
            self._sent = None

    def _pass(self, content: bytes | None) -> None:
        """Pass over the line of a driver before this one that opened the log too late.

        Raises:
            ReplacedError: it is another line.
        """
        line = _parsed(content)
        if not is_opening(line) or not line.get("epoch", 0) < self._epoch:
            raise self._replaced(line)
        self._last += 1


class _FileLog(FencedLog):
    """Lines are appended to a file that is as this process left it.

    Between looking and appending others are kept away by the lock of the sweep's folder. Where a
    shared file system has no lock that holds, two may append in the same instant: both are found
    out by the next look, which compares the last line too.
    """

    path: Path

    def __init__(self, path: Path):
        super().__init__(path)
        self._end, self._last = with_retries(lambda: _end_of(path), str(path))

    def _open(self, epoch: int, driver: str) -> None:
        self._append(opening(epoch, driver) | {"writer": secrets.token_hex(8)})

    def _append(self, value: Any) -> None:
        self._check()
        self._sent = canonical_json(value)
        line = self._sent.encode() + b"\n"
        append_bytes(self.path, line)
        self._end, self._last = with_retries(lambda: _end_of(self.path), str(self.path))
        self._sent = None
        if self._last != line:
            raise self._replaced(_parsed(self._last))

    def _check(self) -> None:
        end, last = with_retries(lambda: _end_of(self.path), str(self.path))
        if (end, last) != (self._end, self._last):
            if not self._is_ours(end, last):
                raise self._replaced(self._last_opening())
            self._end, self._last = end, last
        self._sent = None

    def _is_ours(self, end: int, last: bytes) -> bool:
        """Whether all that was added is what this process was appending, or the beginning of it.

        A line break may stand before it, where the line before had none.
        """
        if self._sent is None or not f"{self._sent}\n".encode().startswith(last):
            return False
        return end - len(last) - self._end in (0, 1)

    def _last_opening(self) -> Any:
        openings = [line for line in map(_parsed, raw_lines(self.path)) if is_opening(line)]
        return openings[-1] if openings else None


def _end_of(path: Path) -> tuple[int, bytes]:
    """Look up where a file ends, and its last line; an open file is asked of its server anew."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            tail = b""
            step = 4096
            while size - len(tail) > 0 and b"\n" not in tail[:-1]:
                at = max(0, size - len(tail) - step)
                file.seek(at)
                tail = file.read(size - at)
                step *= 2
    except FileNotFoundError:
        return 0, b""
    return size, tail[tail[:-1].rfind(b"\n") + 1 :]


def _parsed(content: bytes | None) -> Any:
    """Read a line; None: it is none."""
    try:
        return json.loads(content or b"null")
    except ValueError:
        return None
