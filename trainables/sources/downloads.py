"""Images and tables in an object store: listed, and downloaded a few ahead of who reads them.

An image never lies on the disk, a table for as long as its rows are read. Knows neither classes
nor the cache.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from trainables.errors import UserError
from trainables.sources.listing import MAX_FILE_BYTES, FileEntry, Listing, StoredFile, single_file
from trainables.sources.source import Item
from trainables.storage.object_store import MAX_REQUESTS_AT_ONCE, RemotePath
from trainables.storage.retry import first_line, with_retries

IMAGES_AHEAD = 128
IMAGE_BYTES_AHEAD = 256 * 2**20  # in memory
TABLES_AHEAD = 4
TABLE_BYTES_AHEAD = 2 * 2**30  # on disk

T = TypeVar("T")


def scan_store(data: RemotePath, *, patient: bool) -> Listing:
    """List what lies below a prefix, or one table, without reading any object.

    Args:
        patient: whether to wait for a store that does not answer.

    Raises:
        UserError: there is nothing, it cannot be read, or it is a single object that is no table.
    """

    def find() -> tuple[str, list[fs.FileInfo], fs.FileInfo]:
        filesystem, path = data.filesystem, data.path
        below = fs.FileSelector(path, recursive=True, allow_not_found=True)
        found = filesystem.get_file_info(below)
        return path, found, None if found else filesystem.get_file_info(path)

    try:
        path, found, itself = with_retries(find, str(data)) if patient else find()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(data, error) from error
    if found:
        return _listing(data, path, found)
    if itself.type == fs.FileType.NotFound:
        raise UserError(f"{data} does not exist: check the bucket, the prefix and the region.")
    if itself.type == fs.FileType.Directory:
        raise UserError(f"{data} is empty: check the prefix.")
    return single_file(data, itself.size, itself.mtime_ns or -1)


def _listing(data: RemotePath, path: str, found: Iterable[fs.FileInfo]) -> Listing:
    """Hidden names are left out, as `images.scan` does; folders are what files lie in, too."""
    files: list[FileEntry] = []
    folders: set[str] = set()
    for info in found:
        name = info.path.removeprefix(f"{path}/")
        parts = name.split("/")
        if any(part.startswith(".") for part in parts):
            continue
        if info.type == fs.FileType.Directory:
            folders.add(name)
        elif "" in parts:  # "a//b", which pyarrow does not open
            files.append(FileEntry(name, -1, -1))
        else:
            files.append(FileEntry(name, info.size, info.mtime_ns or -1))
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    whole = sorted(folder for folder in folders if "" not in folder.split("/"))
    return Listing(root=data, files=tuple(sorted(files)), folders=tuple(whole))


def with_contents(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, those in a store with the bytes of their files.

    Raises:
        UserError: a file is not what it was when it was listed, or cannot be read.
    """
    jobs = ((_bytes_of(item), partial(_filled, item)) for item in items)
    return _ahead(jobs, MAX_REQUESTS_AT_ONCE, IMAGES_AHEAD, IMAGE_BYTES_AHEAD)


def _bytes_of(item: Item) -> int:
    return item.content.size if isinstance(item.content, StoredFile) else 0


def _filled(item: Item) -> Item:
    if not isinstance(item.content, StoredFile):
        return item
    if item.content.size > MAX_FILE_BYTES:
        return replace(item, content=None, reason="larger than 1 GiB")
    content = _brought(item.content, item.content.place.read_bytes)
    _check_size(item.content, len(content))
    return replace(item, content=content)


def local_files(files: Iterable[StoredFile], folder: Path) -> Iterator[Path]:
    """Each file below ``folder``, in order, for as long as the next is not asked for.

    Raises:
        UserError: a file is not what it was when it was listed, or cannot be read.
        OSError: there is no room on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = (
        (file.size, partial(_copied, file, folder / f"{number}{Path(file.place.name).suffix}"))
        for number, file in enumerate(files)
    )
    for path in _ahead(jobs, TABLES_AHEAD, TABLES_AHEAD, TABLE_BYTES_AHEAD):
        yield path
        path.unlink()
    folder.rmdir()


def most_on_disk(sizes: Iterable[int]) -> int:
    """Bytes that :func:`local_files` ever has below its folder, for files of these sizes."""
    largest = sorted(sizes)[-TABLES_AHEAD:]
    return max(*largest[-1:], min(sum(largest), TABLE_BYTES_AHEAD), 0)


def _copied(file: StoredFile, path: Path) -> Path:
    _brought(file, lambda: file.place.download(path))
    _check_size(file, path.stat().st_size)
    return path


def _brought(file: StoredFile, bring: Callable[[], T]) -> T:
    try:
        return bring()
    except FileNotFoundError:
        raise _changed(file.place) from None
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # our own disk's
            raise
        raise _unreadable(file.place, error) from error


def _check_size(file: StoredFile, size: int) -> None:
    if size != file.size:
        raise _changed(file.place)


def _changed(place: RemotePath) -> UserError:
    return UserError(
        f"{place} was changed while the images were read: give the same command again once all of"
        " them are in place."
    )


def _unreadable(place: RemotePath, error: Exception) -> UserError:
    return UserError(
        f"{place} cannot be read ({first_line(error)}): check the address, your credentials and"
        " the network."
    )


def _ahead(
    jobs: Iterable[tuple[int, Callable[[], T]]], threads: int, most: int, most_bytes: int
) -> Iterator[T]:
    """What the jobs give, in order; some are begun before their turn.

    Args:
        jobs: bytes that the result takes, and what makes it.
        most, most_bytes: jobs at a time whose results are there or in the making, the one that was
            given last among them, and bytes that they take together; one may take more.
    """
    waiting: deque[tuple[int, Future[T]]] = deque()
    taken = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for size, job in jobs:
                while waiting and (len(waiting) >= most or taken + size > most_bytes):
                    taken -= waiting[0][0]
                    yield waiting.popleft()[1].result()
                waiting.append((size, pool.submit(job)))
                taken += size
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class RangeReader(io.RawIOBase):
    """A file in a store, of which only what is asked for is read, for as long as it takes.

    Raises:
        UserError: from any reading, the file cannot be read.
    """

    def __init__(self, file: StoredFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        found = _brought(self._file, lambda: self._range(wanted)) if wanted else b""
        self._at += len(found)
        return found

    def _range(self, wanted: int) -> bytes:
        def read() -> bytes:
            place = self._file.place
            with place.filesystem.open_input_file(place.path) as file:
                found: bytes = file.read_at(wanted, self._at)
            return found

        return with_retries(read, str(self._file.place))
