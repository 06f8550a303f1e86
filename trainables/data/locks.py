"""Hold entries of the cache that are in use, so that no process drops them.

Whoever uses an entry has a shared lock (flock) on it, which ends with the process at the latest.
Whoever drops one needs the lock for itself. The time of the locked file is that of the last use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from trainables.storage.full_disk import allocate

USED = ".used"  # the file in a decoded set's folder that is locked

_held: dict[Path, tuple[int, int]] = {}  # this process's sets: descriptor, and how often held


def hold(root: Path) -> bool:
    """Keep a decoded set from being dropped, until this process ends or lets it go.

    Returns:
        False where it is gone, or is just being dropped.
    """
    lock = root / USED
    descriptor, times = _held.pop(root, (-1, 0))
    if times and not is_at(descriptor, lock):  # it was made again since
        os.close(descriptor)
        times = 0
    if not times:
        opened = _open_shared(lock, os.O_RDWR | os.O_CREAT)
        if opened is None:
            # Another user's set cannot be locked, nor can this process drop it.
            return root.is_dir() and not os.access(root, os.W_OK)
        descriptor = opened
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
    descriptor = _open_shared(path, os.O_RDONLY)
    if descriptor is None:
        return None
    try:
        with suppress(PermissionError):
            os.utime(path)
        mapped: np.ndarray = np.load(path, mmap_mode="r")
    except BaseException:
        os.close(descriptor)
        raise
    weakref.finalize(mapped, os.close, descriptor)
    return mapped


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Allocate the blocks of a mapped file, and keep it from being dropped while it is filled.

    Raises:
        OSError: there is no room for it.
    """
    descriptor = _open_shared(path, os.O_RDWR)
    if descriptor is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        allocate(descriptor, os.fstat(descriptor).st_size)
        yield
    finally:
        os.close(descriptor)


def _open_shared(path: Path, flags: int) -> int | None:
    """Open a file and lock it shared: its descriptor, or None where it is not there (any more)."""
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # whoever drops it holds the lock for a moment only
    if is_at(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
