"""Files in an object store, addressed like paths: whatever URI pyarrow knows (s3://, gs://, ...).

The one module that speaks to object stores through pyarrow. Credentials come from the standard
chain of each cloud (environment, profile, instance role), never from a URI.
"""

from __future__ import annotations

import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from trainables.errors import UserError
from trainables.storage.retry import T, first_line, with_retries

MAX_REQUESTS_AT_ONCE = 16  # at a time: they wait for a store, not for a core
CHUNK_BYTES = 1 << 20  # of a download
SINGLE_REQUEST_MB = 8  # up to here a file is sent in one request


# Stores where an object appears whole or not at all; elsewhere it is written aside and moved.
ATOMIC_SCHEMES = ("s3", "gcs", "abfs")


def is_uri(text: str | Path) -> bool:
    """Whether it names something in a store, not on this machine."""
    return "://" in str(text)


@dataclass(frozen=True)
class RemotePath:
    """An object, or a prefix of objects, with the ways of a :class:`pathlib.Path`.

    Reads and writes wait for a store that does not answer, up to ``PATIENCE_S`` each.
    """

    root: str  # scheme, bucket and settings: s3://bucket?region=eu-central-1
    key: str  # within it, without a slash at either end

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, key=f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return self.uri.partition("?")[0]

    @property
    def uri(self) -> str:
        """Whole, settings included."""
        bucket, mark, settings = self.root.partition("?")
        return f"{bucket.removesuffix('/')}/{self.key}{mark}{settings}"

    @property
    def scheme(self) -> str:
        return urlsplit(self.root).scheme

    @property
    def bucket(self) -> str:
        return urlsplit(self.root).netloc

    @property
    def settings(self) -> dict[str, str]:
        """What the URI says after its question mark."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.root).query).items()}

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        return replace(self, key=self.key.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> RemotePath:
        stem = self.name.rpartition(".")[0] or self.name
        return self.parent / f"{stem}{suffix}"

    def exists(self) -> bool:
        """Whether there is such an object; prefixes do not count."""
        return self._info().type == fs.FileType.File

    def size(self) -> int:
        """Bytes."""
        return int(self._info().size)

    def read_bytes(self) -> bytes:
        """Raises:
        FileNotFoundError: there is no such object.
        """

        def read() -> bytes:
            with self.filesystem.open_input_stream(self.path) as stream:
                whole: bytes = stream.read()
            return whole

        return self._patiently(read)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Put the object there whole, in place of a former one."""

        def write(path: str) -> None:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)

        self._patiently(lambda: self._replace(write))

    def upload(self, local: Path) -> None:
        """Put a file there whole, in place of a former one."""
        if local.stat().st_size <= SINGLE_REQUEST_MB * 1_000_000:
            self.write_bytes(local.read_bytes())
            return

        def copy(path: str) -> None:
            # In parts. pyarrow gives up an upload that fails, where closing a stream of our own
            # would pass its first parts off as the whole.
            fs.copy_files(
                str(local),
                path,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

        self._patiently(lambda: self._replace(copy))

    def check_reachable(self) -> None:
        """Ask for the path, without waiting for a store that does not answer.

        Raises:
            OSError: there is no answer, or a refusal.
        """
        self.filesystem.get_file_info(self.path)

    def upload_files(self, folder: Path, names: Iterable[str]) -> None:
        """Put files of a folder there, by their names below it, many at a time."""
        with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE) as pool:
            sent = pool.map(lambda name: (self / name).upload(folder / name), names)
            deque(sent, maxlen=0)  # which raises what one of them raised

    def check_writable(self) -> None:
        """Write an object below and delete it, without waiting for a store that does not answer.

        Raises:
            OSError: that cannot be done.
        """
        probe = self / f".check_writable-{secrets.token_hex(8)}"

        def write(path: str) -> None:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(b"?")

        probe._replace(write)
        self.filesystem.delete_file(probe.path)

    def _replace(self, write: Callable[[str], None]) -> None:
        """Have the object written, by a name aside first where that takes a moment to be whole."""
        if self.filesystem.type_name in ATOMIC_SCHEMES:
            write(self.path)
            return
        aside = f"{self.path}.{secrets.token_hex(4)}.tmp"
        self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
        write(aside)
        self.filesystem.move(aside, self.path)

    def download(self, local: Path) -> None:
        """Write the object to a local file.

        Raises:
            FileNotFoundError: there is no such object.
        """

        def copy() -> None:
            with self.filesystem.open_input_stream(self.path) as stream, local.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK_BYTES)

        self._patiently(copy)

    def unlink(self, missing_ok: bool = False) -> None:
        def delete() -> None:
            try:
                self.filesystem.delete_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

        self._patiently(delete)

    def children(self) -> list[RemotePath]:
        """What lies directly below, sorted."""
        return [self / name for name in sorted(self._names(recursive=False))]

    def walk(self) -> list[str]:
        """The keys of all objects below, relative, sorted."""
        return sorted(self._names(recursive=True))

    def _names(self, recursive: bool) -> list[str]:
        base = f"{self.path}/"

        def find() -> list[str]:
            selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
            found = self.filesystem.get_file_info(selector)
            return [
                info.path.removeprefix(base)
                for info in found
                if not (recursive and info.type != fs.FileType.File)
            ]

        return self._patiently(find)

    def _info(self) -> fs.FileInfo:
        return self._patiently(lambda: self.filesystem.get_file_info(self.path))

    def _patiently(self, act: Callable[[], T]) -> T:
        return with_retries(act, str(self))

    @property
    def filesystem(self) -> fs.FileSystem:
        """Pyarrow's, in which it lies at ``path``."""
        return _filesystem(self.root)[0]

    @property
    def path(self) -> str:
        """As pyarrow's file system has it: bucket and key."""
        base = _filesystem(self.root)[1].rstrip("/")
        return f"{base}/{self.key}".rstrip("/")


def remote_path(uri: str) -> RemotePath:
    """Raises:
    UserError: it is no URI of a store, or holds credentials.
    """
    parts = urlsplit(uri)
    if not parts.netloc and parts.scheme != "file":
        raise UserError(f"{uri} names no bucket: write it as s3://bucket/prefix.")
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise UserError(
            f"{shown} holds credentials: leave them out, they are taken from the environment, a "
            "profile or the machine's role."
        )
    bucket = parts.netloc or "/"  # of file:// there is none, but there is a root
    root = f"{parts.scheme}://{bucket}" + (f"?{parts.query}" if parts.query else "")
    path = RemotePath(root=root, key=unquote(parts.path).strip("/"))
    try:
        _filesystem(root)
    except OSError as error:
        raise UserError(
            f"{path} cannot be reached ({first_line(error)}): check the address and the network."
        ) from None
    except (pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{path} is in no store that is known here ({first_line(error)}): use s3://bucket/"
            "prefix, gs://bucket/prefix or another URI that pyarrow knows."
        ) from None
    return path


def place_of(data: str | Path) -> Path | RemotePath:
    """The folder or file on this machine, or in a store, that a user names.

    Raises:
        UserError: it is a URI of no store that is known here.
    """
    parts = urlsplit(str(data))
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return remote_path(str(data)) if is_uri(data) else Path(data).expanduser()


@cache
def _filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """Once a process: it holds the connections."""
    if root.startswith("s3://") and "allow_delayed_open" not in root:
        # Small objects go in one request instead of three.
        root += ("&" if "?" in root else "?") + "allow_delayed_open=true"
    filesystem, base = fs.FileSystem.from_uri(root)
    return filesystem, base
