"""The cache folder of a node: kept within its bound by dropping what was not used for longest.

Two kinds of entries: folders named by a digest, with the decoded images of a set, and files in
views/, with images as a net is shown them. Whoever uses one holds a shared lock (flock) on it,
which dies with the process, and only what nobody holds is dropped. The bound belongs to the
folder: all processes of the node that write to it keep to it, whoever started them.

    CACHE/<digest>/.used     its lock; its time is that of the last use
    CACHE/views/*.npy        their own lock and time
    CACHE/.limit             the bound in bytes, where there is one
    CACHE/tmp-*              being written or being deleted; of a killed process, if unlocked

Knows neither images nor what a view is of.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import filelock
import numpy as np

from trainables.errors import UserError

VIEWS = "views"
USED = ".used"
ABANDONED_AFTER_S = 600.0  # a half-written view that is this old and that nobody holds is nobody's


@dataclass(frozen=True, kw_only=True)
class SpaceRequest:
    """What room is asked for, in the words of the error if there is none."""

    what: str  # "60 images at up to 1024 px"
    smaller: str  # what would need less: "a smaller `cache_side`"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path
    lock: Path
    size: int  # bytes
    used: float  # when last, seconds


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the cache against others that decode, and clear what a killed one left behind.

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
        for stale in cache.glob("tmp-*"):  # under the lock, nobody is writing one
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        lock.release()


def set_limit(cache: Path, gigabytes: float | None) -> None:
    """Bound what the cache may hold, from its next writing on; None: by the disk alone."""
    told, limit = cache / ".limit", None if gigabytes is None else int(gigabytes * 1e9)
    if limit == _limit(cache):
        return
    if limit is None:
        told.unlink(missing_ok=True)
        return
    cache.mkdir(parents=True, exist_ok=True)
    fresh = cache / f".limit.{uuid.uuid4().hex}"
    fresh.write_text(str(limit))
    fresh.replace(told)


def make_room(cache: Path, needed: int, need: SpaceRequest) -> bool:
    """Drop what was not used for longest, as far as ``needed`` bytes ask for it.

    Returns:
        Whether anything was dropped.

    Raises:
        UserError: even without all that nobody uses there is no room; nothing is dropped then.
    """
    with filelock.FileLock(cache / ".room"):
        entries = _entries(cache)
        free, limit = shutil.disk_usage(cache).free, _limit(cache)
        short = needed - free
        if limit is not None:
            short = max(short, needed + _drafts(cache) + sum(e.size for e in entries) - limit)
        if short <= 0:
            return False
        idle = [entry for entry in entries if _drop(entry, cache, really=False)]
        if sum(entry.size for entry in idle) < short:
            raise _no_room(cache, needed - short, needed, need, limit)
        for entry in sorted(idle, key=lambda entry: entry.used):
            if short <= 0:
                break
            if _drop(entry, cache):
                short -= entry.size
        return True


def _no_room(
    cache: Path, free: int, needed: int, need: SpaceRequest, limit: int | None
) -> UserError:
    asked = f"and {need.what} need about {size_in_words(needed)}: choose {need.smaller}"
    if limit is None:
        return UserError(
            f"The cache folder {cache} has {size_in_words(free)} free, {asked}, or a `cache_dir` on"
            " a larger disk."
        )
    return UserError(
        f"The cache folder {cache} has {size_in_words(max(0, free))} left of `cache_gb`"
        f" {limit / 1e9:g} and of its disk, {asked}, or a larger `cache_gb` or disk."
    )


def size_in_words(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextmanager
def write_errors(cache: Path, smaller: str) -> Iterator[None]:
    """Tell a full or broken disk in one sentence; ``smaller``: what would need less."""
    try:
        yield
    except OSError as error:
        what = "is full" if error.errno == errno.ENOSPC else f"cannot be written to ({error})"
        raise UserError(
            f"The cache folder {cache} {what}: choose another `cache_dir`, or {smaller}."
        ) from error


@contextmanager
def draft_folder(draft: Path) -> Iterator[None]:
    """Make a folder for a set that is being written; what is left of it in the end is deleted.

    It is held under the name that it is given meanwhile, too.
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
    """A file that grows in the cache; where the disk fills up, what nobody uses goes."""

    def __init__(self, file: FileIO, cache: Path, expected: int, need: SpaceRequest) -> None:
        """
        Args:
            file: unbuffered, so that it is known how far a failed write came.
            expected: bytes that room was made for.
        """
        self.size = 0
        self._file, self._cache, self._need = file, cache, need
        self._room, self._step = expected, expected // 16 + 1

    def append(self, data: memoryview) -> None:
        """Raises:
        UserError: there is no room left.
        """
        left = data.cast("B")
        if self.size + len(left) > self._room:  # more than was expected
            more = max(self._step, len(left))
            make_room(self._cache, more, self._need)
            self._room += more
        while left:
            try:
                written = self._file.write(left)
            except OSError as error:
                full = error.errno == errno.ENOSPC
                if not full or not make_room(self._cache, len(left), self._need):
                    raise
                continue
            self.size += written
            left = left[written:]


# --- holding ----------------------------------------------------------------------------------

_held: dict[Path, tuple[int, int]] = {}  # of this process: descriptor, and how often it is held


def hold(root: Path) -> bool:
    """Keep a decoded set from being dropped, until this process ends or lets it go.

    Returns:
        False where it is gone, or is just being dropped.
    """
    lock = root / USED
    descriptor, times = _held.pop(root, (-1, 0))
    if times and not _is_at(descriptor, lock):  # it was made again since
        os.close(descriptor)
        times = 0
    if not times:
        found = _shared(lock, os.O_RDWR | os.O_CREAT)
        if found is None:
            return root.is_dir() and not os.access(root, os.W_OK)  # a stranger's: not dropped here
        descriptor = found
    with suppress(PermissionError):
        os.utime(lock)
    _held[root] = descriptor, times + 1
    return True


def let_go(root: Path) -> None:
    """Undo one :func:`hold`."""
    descriptor, times = _held.pop(root, (-1, 0))
    if times > 1:
        _held[root] = descriptor, times - 1
    elif times:
        os.close(descriptor)


def held_file(path: Path) -> np.ndarray | None:
    """Map an .npy file, read-only; it is not dropped for as long as the map is open.

    Returns:
        None where there is none, or it is just being dropped.
    """
    descriptor = _shared(path, os.O_RDONLY)
    if descriptor is None:
        return None
    try:
        with suppress(PermissionError):
            os.utime(path)
        found: np.ndarray = np.load(path, mmap_mode="r")
    except BaseException:
        os.close(descriptor)
        raise
    weakref.finalize(found, os.close, descriptor)
    return found


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Give a mapped file its blocks, and keep it from being dropped while it is filled.

    Writing to a map for which the disk has no block kills the process.

    Raises:
        OSError: there is no room for it.
    """
    descriptor = _shared(path, os.O_RDWR)
    if descriptor is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
        yield
    finally:
        os.close(descriptor)


def _shared(path: Path, flags: int) -> int | None:
    """A descriptor of the file with a shared lock; None where it is not, or no longer, there."""
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # who drops it has it for a moment only
    if _is_at(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


# --- entries ----------------------------------------------------------------------------------


def _entries(cache: Path) -> list[_Entry]:
    found = [_set(path) for path in cache.glob("[0-9a-f]*") if re.fullmatch(r"\w{64}", path.name)]
    old = time.time() - ABANDONED_AFTER_S
    for path in _inside(cache / VIEWS):
        with suppress(FileNotFoundError):  # another process may have dropped it
            facts = path.stat()
            if path.suffix == ".npy" or (path.suffix == ".tmp" and facts.st_mtime < old):
                found.append(_Entry(path=path, lock=path, size=facts.st_size, used=facts.st_mtime))
    return found


def _set(path: Path) -> _Entry:
    """The folder of a decoded set; one that nobody marked as used, by its own age."""
    lock = path / USED
    used = next((p.stat().st_mtime for p in (lock, path) if p.exists()), 0.0)
    return _Entry(path=path, lock=lock, size=_size(path), used=used)


def _drafts(cache: Path) -> int:
    """Bytes of what is being written."""
    views = [p for p in _inside(cache / VIEWS) if p.suffix == ".tmp"]
    young = [
        p for p in views if p.exists() and p.stat().st_mtime >= time.time() - ABANDONED_AFTER_S
    ]
    return sum(_size(path) for path in [*cache.glob("tmp-*"), *young])


def _size(path: Path) -> int:
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            total += 0 if file.is_dir() else file.stat().st_size
    return total


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def _drop(entry: _Entry, cache: Path, *, really: bool = True) -> bool:
    """Drop an entry unless somebody holds it; or see only whether it could be dropped."""
    create = 0 if entry.lock == entry.path else os.O_CREAT
    try:
        descriptor = os.open(entry.lock, os.O_RDWR | create, 0o666)
    except OSError:  # it went meanwhile, or is a stranger's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(descriptor, entry.lock):
            return False
        if really and entry.lock == entry.path:
            entry.path.unlink()
        elif really:
            gone = cache / f"tmp-{uuid.uuid4().hex}"  # out of sight in one step
            entry.path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _limit(cache: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        return int((cache / ".limit").read_text())
    return None
