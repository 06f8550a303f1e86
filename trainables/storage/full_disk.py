"""Recognise that a disk is full, whatever library says so, and say it in one sentence.

A map of a file says nothing: what is mapped has its blocks beforehand (:func:`allocate`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.errors import SweepError

# What a disk that takes no more is, by the error that writing to it gives.
STATES = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is over the quota of this user",
    errno.EROFS: "can only be read, as a disk is after an error or where it is mounted so",
}
REMEDIES = {errno.EROFS: "make it writable"}
# Errors of libraries that pass on no number of the system's, by words of their messages.
WORDS = {
    "database or disk is full": errno.ENOSPC,  # sqlite
    "attempt to write a readonly database": errno.EROFS,  # sqlite
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "PytorchStreamWriter failed writing": errno.ENOSPC,
    ". unexpected pos ": errno.ENOSPC,
}
RUST_NUMBER = re.compile(r"\(os error (\d+)\)")  # safetensors


class DiskFullError(SweepError):
    """A disk takes no more. What was written before is whole, and the same command continues."""


def disk_state(error: BaseException) -> int | None:
    """Return which of ``STATES`` an error, or one that it came from, is about; None: none."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        number = link.errno if isinstance(link, OSError) else None
        if number is None:
            number = _number_in(str(link))
        if number in STATES:
            return number
        link = link.__cause__ or link.__context__
    return None


def _number_in(message: str) -> int | None:
    found = RUST_NUMBER.search(message)
    if found:
        return int(found[1])
    return next((number for words, number in WORDS.items() if words in message), None)


def disk_full(number: int, path: Path | str | None) -> DiskFullError:
    """Make the error that says which disk is full, how much of it is free, and what to do.

    Args:
        number: one of ``STATES``.
        path: what was to be written; None: not known.
    """
    where = f"the disk of {path}" if path else "a disk that the sweep writes to"
    remedy = REMEDIES.get(number, "free some")
    return DiskFullError(
        f"{where[0].upper()}{where[1:]} {STATES[number]}{_room(path)}: {remedy}, and the same "
        "command continues."
    )


def _room(path: Path | str | None) -> str:
    """Say how much of a disk is free; "" where it is not known."""
    if path is None or "://" in str(path):
        return ""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({usage.free / 1e6:,.1f} MB free of {usage.total / 1e6:,.1f}, too few for it)"


def full_disk_in(trace: str) -> DiskFullError | None:
    """Return the error of a full disk that a traceback of another process ends with."""
    name = f"{DiskFullError.__module__}.{DiskFullError.__qualname__}: "
    lines = [line.strip() for line in trace.splitlines() if name in line]
    return DiskFullError(lines[-1].partition(name)[2]) if lines else None


@contextmanager
def full_disk_told(place: Path | str | None = None) -> Iterator[None]:
    """Turn any error of a full disk that leaves the block into a :class:`DiskFullError`.

    Args:
        place: what is named where the error itself names no file.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        number = disk_state(error)
        if number is None:
            raise
        raise disk_full(number, _file_of(error) or place) from error


def _file_of(error: BaseException) -> str | None:
    """Return the file that an error of the system names."""
    name = error.filename if isinstance(error, OSError) else None
    return str(name) if isinstance(name, (str, Path)) else None


def allocate(descriptor: int, size: int) -> None:
    """Give an open file its size and all of its blocks, before it is written through a map.

    Writing to a map for which the disk has no block left would kill the process.

    Raises:
        OSError: there is no room for it.
    """
    os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
