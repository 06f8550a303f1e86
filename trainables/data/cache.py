"""Keep a node's cache folder within its bound by dropping what was not used for longest.

Two kinds of entries: folders named by a digest, with the decoded images of a set, and files in
views/, with images as a net is shown them. Only what nobody holds (:mod:`trainables.data.locks`) is
dropped. The bound belongs to the folder: all processes of the node that write to it keep to it,
whoever started them.

    CACHE/<digest>/.used     its lock; its time is that of the last use
    CACHE/views/*.npy        their own lock and time
    CACHE/.limit             the bound in bytes, where there is one
    CACHE/tmp-*              being written or being deleted; left by a killed process, if unlocked
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import filelock

from trainables.data.locks import USED, is_at
from trainables.errors import UserError

VIEWS = "views"
ABANDONED_AFTER_S = 600.0  # a half-written view of this age that nobody holds may be dropped


class NoRoomError(UserError):
    """The cache has no room for what it was to hold."""


@dataclass(frozen=True, kw_only=True)
class SpaceRequest:
    """Words for the error if there is no room."""

    what: str  # needs the room: "60 images at up to 1024 px"
    smaller: str  # would need less: "a smaller `cache_side`"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A decoded set or a view."""

    path: Path
    lock: Path
    size: int  # bytes
    last_use: float  # Unix time, s


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Lock the cache against others that decode, and delete what killed ones left behind.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(cache / ".lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"The cache folder {cache} cannot be written to ({error}): choose another `cache_dir`."
        ) from error
    try:
        for leftover in cache.glob("tmp-*"):  # under the lock, nobody is writing one
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


def set_limit(cache: Path, gigabytes: float | None) -> None:
    """Bound what the cache may hold, from its next writing on; None: by the disk alone."""
    path, limit = cache / ".limit", None if gigabytes is None else int(gigabytes * 1e9)
    if limit == _limit(cache):
        return
    if limit is None:
        path.unlink(missing_ok=True)
        return
    cache.mkdir(parents=True, exist_ok=True)
    fresh = cache / f".limit.{uuid.uuid4().hex}"
    fresh.write_text(str(limit))
    fresh.replace(path)


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes that the cache may still take, once what nobody uses is dropped, and all views are."""

    disk: int  # as far as the disk goes
    bound: int | None  # as far as the bound of the folder goes; None: it has none

    @property
    def least(self) -> int:
        """The smaller of the two."""
        return self.disk if self.bound is None else min(self.disk, self.bound)


def room_in(cache: Path) -> Room:
    """Look up the room in the cache; drops nothing.

    Views count as room even where another process holds them: it lets them go in time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / ".room"):
        entries, limit = _entries(cache), _limit(cache)
        kept = sum(
            e.size for e in entries if e.lock != e.path and not _drop(e, cache, dry_run=True)
        )
        total = sum(entry.size for entry in entries)
        return Room(
            disk=shutil.disk_usage(cache).free + total - kept,
            bound=None if limit is None else max(0, limit - kept - _drafts_size(cache)),
        )


def make_room(cache: Path, needed: int, request: SpaceRequest, *, passing: bool = False) -> bool:
    """Drop what was not used for longest, as far as room for ``needed`` bytes takes it.

    Args:
        passing: whether they are of a file that goes with its process: the disk alone bounds it.

    Returns:
        Whether anything was dropped.

    Raises:
        NoRoomError: even without all that nobody uses there is none; nothing is dropped then.
    """
    with filelock.FileLock(cache / ".room"):
        entries = _entries(cache)
        free, limit = shutil.disk_usage(cache).free, None if passing else _limit(cache)
        missing = needed - free
        if limit is not None:
            used = _drafts_size(cache) + sum(entry.size for entry in entries)
            missing = max(missing, needed + used - limit)
        if missing <= 0:
            return False
        idle = [entry for entry in entries if _drop(entry, cache, dry_run=True)]
        if sum(entry.size for entry in idle) < missing:
            raise _no_room(cache, needed - missing, needed, request, limit)
        for entry in sorted(idle, key=lambda entry: entry.last_use):
            if missing <= 0:
                break
            if _drop(entry, cache):
                missing -= entry.size
        return True


def _no_room(
    cache: Path, free: int, needed: int, request: SpaceRequest, limit: int | None
) -> NoRoomError:
    demand = f"and {request.what} need about {size_in_words(needed)}: choose {request.smaller}"
    if limit is None:
        return NoRoomError(
            f"The cache folder {cache} has {size_in_words(free)} free, {demand}, or a `cache_dir`"
            " on a larger disk."
        )
    return NoRoomError(
        f"The cache folder {cache} has {size_in_words(max(0, free))} left of `cache_gb`"
        f" {limit / 1e9:g} and of its disk, {demand}, or a larger `cache_gb` or disk."
    )


def size_in_words(size: int) -> str:
    """Write a number of bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def write_errors(cache: Path, smaller: str) -> Iterator[None]:
    """Turn errors of a full or broken disk into one sentence.

    Args:
        smaller: what would need less room, in words.

    Raises:
        NoRoomError: the disk was full.
        UserError: the block could not write.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "is full" if is_full else f"cannot be written to ({error})"
        raise (NoRoomError if is_full else UserError)(
            f"The cache folder {cache} {what}: choose another `cache_dir`, or {smaller}."
        ) from error


@contextmanager
def draft_folder(draft: Path) -> Iterator[None]:
    """Make a folder for a set that is being written, and delete what is left of it in the end.

    Where the block renames the folder, the set is held under its new name until the block ends.
    """
    draft.mkdir()
    try:
        descriptor = os.open(draft / USED, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class GrowingFile:
    """A file that grows in the cache; where the disk fills up, what nobody uses is dropped.

    Args:
        file: unbuffered, so that it is known how far a failed write came.
        expected: bytes that room was made for.
        request: for the error if there is no room for more.
    """

    def __init__(self, file: FileIO, cache: Path, expected: int, request: SpaceRequest) -> None:
        self.size = 0
        self._file, self._cache, self._request = file, cache, request
        self._room, self._step = expected, expected // 16 + 1

    def append(self, data: memoryview) -> None:
        """Write all of the data.

        Raises:
            NoRoomError: there is no room left.
            OSError: the disk fails.
        """
        left = data.cast("B")
        if self.size + len(left) > self._room:  # more than was expected
            more = max(self._step, len(left))
            make_room(self._cache, more, self._request)
            self._room += more
        while left:
            try:
                written = self._file.write(left)
            except OSError as error:
                is_full = error.errno == errno.ENOSPC
                if not is_full or not make_room(self._cache, len(left), self._request):
                    raise
                continue
            self.size += written
            left = left[written:]

    def rewrite(self, offset: int, data: memoryview) -> None:
        """Write data over what was appended, from ``offset`` on.

        Raises:
            OSError: the disk fails.
        """
        left = data.cast("B")
        while left:
            written = os.pwrite(self._file.fileno(), left, offset)
            offset, left = offset + written, left[written:]


def _entries(cache: Path) -> list[_Entry]:
    """List decoded sets, views, and views that their writers abandoned."""
    roots = (path for path in cache.glob("[0-9a-f]*") if re.fullmatch(r"\w{64}", path.name))
    entries = [_set_entry(root) for root in roots]
    for path in _contents(cache / VIEWS):
        with suppress(FileNotFoundError):  # another process may have dropped it
            status = path.stat()
            if path.suffix == ".npy" or (path.suffix == ".tmp" and _is_abandoned(status)):
                entries.append(
                    _Entry(path=path, lock=path, size=status.st_size, last_use=status.st_mtime)
                )
    return entries


def _set_entry(root: Path) -> _Entry:
    """The entry of a decoded set; its own age counts where it was never marked as used."""
    lock = root / USED
    last_use = next((p.stat().st_mtime for p in (lock, root) if p.exists()), 0.0)
    return _Entry(path=root, lock=lock, size=_size_below(root), last_use=last_use)


def _drafts_size(cache: Path) -> int:
    """Bytes of what is being written."""
    total = sum(_size_below(path) for path in cache.glob("tmp-*"))
    for path in _contents(cache / VIEWS):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.suffix == ".tmp" and not _is_abandoned(status):
                total += status.st_size
    return total


def _is_abandoned(status: os.stat_result) -> bool:
    return status.st_mtime < time.time() - ABANDONED_AFTER_S


def _size_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += 0 if path.is_dir() else path.stat().st_size
    return total


def _contents(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def _drop(entry: _Entry, cache: Path, *, dry_run: bool = False) -> bool:
    """Drop an entry unless somebody holds it; with ``dry_run``, tell only whether it could be."""
    is_file = entry.lock == entry.path
    try:
        descriptor = os.open(entry.lock, os.O_RDWR | (0 if is_file else os.O_CREAT), 0o666)
    except OSError:  # another process dropped it, or it is another user's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(descriptor, entry.lock):
            return False
        if is_file and not dry_run:
            entry.path.unlink()
        elif not dry_run:
            doomed = cache / f"tmp-{uuid.uuid4().hex}"  # out of sight in one step
            entry.path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _limit(cache: Path) -> int | None:
    """The bound in bytes, where there is one."""
    with suppress(FileNotFoundError, ValueError):
        return int((cache / ".limit").read_text())
    return None
