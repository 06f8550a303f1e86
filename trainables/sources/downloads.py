"""List images and tables in an object store, and download them a few ahead of their reader.

An image never lies on the disk, a table for as long as its rows are read.
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
from trainables.sources.left_out import is_image_name, is_left_out, leftover_name
from trainables.sources.listing import MAX_FILE_BYTES, FileEntry, Listing, StoredFile, single_file
from trainables.sources.source import Item
from trainables.storage.object_store import MAX_REQUESTS_AT_ONCE, RemotePath
from trainables.storage.retry import first_line, with_retries

MAX_IMAGES_AHEAD = 128
MAX_IMAGE_BYTES_AHEAD = 256 * 2**20  # in memory
MAX_TABLES_AHEAD = 4
MAX_TABLE_BYTES_AHEAD = 2 * 2**30  # on the disk

T = TypeVar("T")


def scan_store(data: RemotePath, *, patient: bool) -> Listing:
    """List what lies below a prefix, or one table, without reading any object.

    Args:
        patient: whether to wait for a store that does not answer.

    Raises:
        UserError: there is nothing, it cannot be read, or it is a single object that is no table.
    """

    def look_up() -> tuple[str, list[fs.FileInfo], fs.FileInfo]:
        filesystem, path = data.filesystem, data.path
        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        below = filesystem.get_file_info(selector)
        return path, below, None if below else filesystem.get_file_info(path)

    try:
        path, below, itself = with_retries(look_up, str(data)) if patient else look_up()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(data, error) from error
    if below:
        return _listing(data, path, below)
    if itself.type == fs.FileType.NotFound:
        raise UserError(f"{data} does not exist: check the bucket, the prefix and the region.")
    if itself.type == fs.FileType.Directory:
        raise UserError(f"{data} is empty: check the prefix.")
    return single_file(data, itself.size, itself.mtime_ns or -1)


def _listing(data: RemotePath, path: str, infos: Iterable[fs.FileInfo]) -> Listing:
    """Turn pyarrow's list into a listing, hidden names and leftovers left out.

    A store need not list folders: what files lie in counts as one.
    """
    files: list[FileEntry] = []
    folders: set[str] = set()
    left_out: set[str] = set()
    for info in infos:
        name = info.path.removeprefix(f"{path}/")
        parts = name.split("/")
        depth = next((depth for depth, part in enumerate(parts, 1) if is_left_out(part)), None)
        if depth is not None:
            is_file = info.type != fs.FileType.Directory
            if leftover_name(parts[depth - 1]) or (is_file and is_image_name(name)):
                is_folder = depth < len(parts) or not is_file
                left_out.add("/".join(parts[:depth]) + "/" * is_folder)
            continue
        if info.type == fs.FileType.Directory:
            folders.add(name)
        elif "" in parts:  # pyarrow does not open "a//b"
            files.append(FileEntry(name, -1, -1))
        else:
            files.append(FileEntry(name, info.size, info.mtime_ns or -1))
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    named = sorted(folder for folder in folders if "" not in folder.split("/"))
    return Listing(
        root=data,
        files=tuple(sorted(files)),
        folders=tuple(named),
        left_out=tuple(sorted(left_out)),
    )


def with_contents(items: Iterable[Item]) -> Iterator[Item]:
    """Replace files in a store by their bytes; the items stay the same, in the same order.

    Raises:
        UserError: a file is not what it was when it was listed, or cannot be read.
    """
    jobs = ((_download_bytes(item), partial(_with_content, item)) for item in items)
    return _run_ahead(jobs, MAX_REQUESTS_AT_ONCE, MAX_IMAGES_AHEAD, MAX_IMAGE_BYTES_AHEAD)


def _download_bytes(item: Item) -> int:
    return item.content.size if isinstance(item.content, StoredFile) else 0


def _with_content(item: Item) -> Item:
    if not isinstance(item.content, StoredFile):
        return item
    if item.content.size > MAX_FILE_BYTES:
        return replace(item, content=None, reason="larger than 1 GiB")
    content = _fetch(item.content, item.content.path.read_bytes)
    _check_size(item.content, len(content))
    return replace(item, content=content)


def local_files(files: Iterable[StoredFile], folder: Path) -> Iterator[Path]:
    """Download the files to below ``folder``, in order; each is deleted when the next is taken.

    Raises:
        UserError: a file is not what it was when it was listed, or cannot be read.
        OSError: there is no room on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = (
        (file.size, partial(_download, file, folder / f"{number}{Path(file.path.name).suffix}"))
        for number, file in enumerate(files)
    )
    for path in _run_ahead(jobs, MAX_TABLES_AHEAD, MAX_TABLES_AHEAD, MAX_TABLE_BYTES_AHEAD):
        yield path
        path.unlink()
    folder.rmdir()


def max_bytes_on_disk(sizes: Iterable[int]) -> int:
    """Bound the bytes that :func:`local_files` has below its folder, for files of these sizes."""
    largest = sorted(sizes)[-MAX_TABLES_AHEAD:]
    return max(*largest[-1:], min(sum(largest), MAX_TABLE_BYTES_AHEAD), 0)


def _download(file: StoredFile, path: Path) -> Path:
    _fetch(file, lambda: file.path.download(path))
    _check_size(file, path.stat().st_size)
    return path


def _fetch(file: StoredFile, fetch: Callable[[], T]) -> T:
    """Call ``fetch``, which reads the file; errors of its store become the user's."""
    try:
        return fetch()
    except FileNotFoundError:
        raise _changed(file.path) from None
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the local disk's
            raise
        raise _unreadable(file.path, error) from error


def _check_size(file: StoredFile, size: int) -> None:
    if size != file.size:
        raise _changed(file.path)


def _changed(path: RemotePath) -> UserError:
    return UserError(
        f"{path} was changed while the images were read: give the same command again once all of"
        " them are in place."
    )


def _unreadable(path: RemotePath, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({first_line(error)}): check the address, your credentials and"
        " the network."
    )


def _run_ahead(
    jobs: Iterable[tuple[int, Callable[[], T]]], threads: int, max_jobs: int, max_bytes: int
) -> Iterator[T]:
    """Give the results of the jobs in order; some jobs are begun before their turn.

    Args:
        jobs: pairs of the bytes that a result takes and the function that makes it.
        max_jobs, max_bytes: bounds on results that are there or in the making, the last that was
            given among them, and on their bytes together; a single one may take more.
    """
    pending: deque[tuple[int, Future[T]]] = deque()
    pending_bytes = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for size, job in jobs:
                while pending and (len(pending) >= max_jobs or pending_bytes + size > max_bytes):
                    pending_bytes -= pending[0][0]
                    yield pending.popleft()[1].result()
                pending.append((size, pool.submit(job)))
                pending_bytes += size
            while pending:
                yield pending.popleft()[1].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class RangeReader(io.RawIOBase):
    """A binary file over one in a store: each read downloads its range of bytes and no more.

    Raises:
        UserError: from :meth:`read`, the file cannot be read.
    """

    def __init__(self, file: StoredFile) -> None:
        super().__init__()
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Say that the file can be read."""
        return True

    def seekable(self) -> bool:
        """Say that the file can be read in any order."""
        return True

    def tell(self) -> int:
        """Give the position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; give the new one, in bytes from the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, or all that are left where it is negative."""
        left = max(0, self._file.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        content = _fetch(self._file, lambda: self._read_range(count)) if count else b""
        self._position += len(content)
        return content

    def _read_range(self, count: int) -> bytes:
        path = self._file.path

        def read() -> bytes:
            with path.filesystem.open_input_file(path.path) as file:
                content: bytes = file.read_at(count, self._position)
            return content

        return with_retries(read, str(path))
