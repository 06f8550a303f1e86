"""Read and write files in an object store, addressed like paths by any URI that pyarrow knows.

Credentials come from the standard chain of each cloud (environment, profile, instance role), never
from a URI.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from trainables.errors import UserError, printable
from trainables.storage.retry import T, first_line, with_retries

MAX_REQUESTS_AT_ONCE = 16  # threads that wait for a store, whatever the number of cores
DOWNLOAD_CHUNK_BYTES = 1 << 20
MAX_SINGLE_REQUEST_BYTES = 8_000_000  # larger files are sent in parts
# In these stores an object appears whole or not at all; elsewhere it is written aside and moved.
ATOMIC_SCHEMES = ("s3", "gcs", "abfs")


def is_uri(text: str | Path) -> bool:
    """Whether the text names something in a store, not on this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(text)) is not None


@dataclass(frozen=True)
class RemotePath:
    """An object, or a prefix of objects, with methods of a :class:`pathlib.Path`.

    Reads and writes wait for a store that does not answer, up to ``MAX_OUTAGE_S`` each.
    """

    root: str  # scheme, bucket and settings: s3://bucket?region=eu-central-1
    key: str  # within the bucket, without a slash at either end

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, key=f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return self.uri.partition("?")[0]

    @property
    def uri(self) -> str:
        """The whole URI, settings included, which :func:`remote_path` reads as this path."""
        bucket, mark, settings = self.root.partition("?")
        key = self.key.replace("%", "%25").replace("?", "%3F")
        return f"{bucket.removesuffix('/')}/{key}{mark}{settings}"

    @property
    def scheme(self) -> str:
        """The kind of store, as "s3"."""
        return urlsplit(self.root).scheme

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return urlsplit(self.root).netloc

    @property
    def settings(self) -> dict[str, str]:
        """The settings that follow the question mark of the URI."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.root).query).items()}

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The prefix that the last part of the key lies below."""
        return replace(self, key=self.key.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> RemotePath:
        """Replace the suffix of the name, or add one."""
        stem = self.name.rpartition(".")[0] or self.name
        return self.parent / f"{stem}{suffix}"

    def exists(self) -> bool:
        """Whether there is such an object; prefixes do not count."""
        return bool(self._info().type == fs.FileType.File)

    def size(self) -> int:
        """Look up the size of the object, bytes."""
        return int(self._info().size)

    def read_bytes(self) -> bytes:
        """Read the whole object.

        Raises:
            FileNotFoundError: there is no such object.
        """

        def read() -> bytes:
            with self.filesystem.open_input_stream(self.path) as stream:
                content: bytes = stream.read()
            return content

        return self._with_retries(read)

    def read_parts(self, read: Callable[[IO[bytes]], T]) -> T:
        """Read parts of the object, of which only these are fetched.

        Args:
            read: is given the object as a file that can be sought in; called again where the store
                did not answer.

        Raises:
            FileNotFoundError: there is no such object.
        """

        def read_some() -> T:
            with self.filesystem.open_input_file(self.path) as file:
                return read(file)

        return self._with_retries(read_some)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the whole object as text.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Write the object whole, in place of a former one."""

        def write(path: str) -> None:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)

        self._with_retries(lambda: self._replace(write))

    def upload(self, local: Path) -> None:
        """Write a local file's bytes as the object, whole, in place of a former one."""
        if local.stat().st_size <= MAX_SINGLE_REQUEST_BYTES:
            self.write_bytes(local.read_bytes())
            return

        def copy(path: str) -> None:
            # pyarrow sends parts and gives up an upload that fails, where closing a stream of our
            # own would leave the first parts as if they were the whole.
            fs.copy_files(
                str(local),
                path,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

        self._with_retries(lambda: self._replace(copy))

    def check_reachable(self) -> None:
        """Look the path up once, without waiting for a store that does not answer.

        Raises:
            OSError: there is no answer, or access is refused.
        """
        self._attempt(lambda: self.filesystem.get_file_info(self.path))

    def upload_files(self, folder: Path, names: Iterable[str]) -> None:
        """Upload files of a folder to below this prefix, under the same names, many at a time."""
        with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE) as pool:
            for _ in pool.map(lambda name: (self / name).upload(folder / name), names):
                pass  # raises what one of them raised

    def check_writable(self) -> None:
        """Write and delete an object below, without waiting for a store that does not answer.

        Raises:
            OSError: one of the two fails.
        """
        probe = self / f".check_writable-{secrets.token_hex(8)}"

        def write(path: str) -> None:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(b"?")

        probe._replace(write)
        self.filesystem.delete_file(probe.path)

    def _replace(self, write: Callable[[str], None]) -> None:
        """Call ``write`` with the path, or with a temporary one that is then moved there.

        A temporary path is taken in stores where others would see an object half written.
        """
        if self.filesystem.type_name in ATOMIC_SCHEMES:
            write(self.path)
            return
        aside = f"{self.path}.{secrets.token_hex(4)}.tmp"
        self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
        write(aside)
        self.filesystem.move(aside, self.path)

    def download(self, local: Path) -> None:
        """Copy the object to a local file.

        Raises:
            FileNotFoundError: there is no such object.
        """

        def copy() -> None:
            with self.filesystem.open_input_stream(self.path) as stream, local.open("wb") as file:
                shutil.copyfileobj(stream, file, DOWNLOAD_CHUNK_BYTES)

        self._with_retries(copy)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object.

        Raises:
            FileNotFoundError: there is no such object, and ``missing_ok`` is False.
        """

        def delete() -> None:
            try:
                self.filesystem.delete_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

        self._with_retries(delete)

    def children(self) -> list[RemotePath]:
        """List what lies directly below, sorted."""
        return [self / name for name in sorted(self._names(recursive=False))]

    def walk(self) -> list[str]:
        """List the keys of all objects below, relative to this one, sorted."""
        return sorted(self._names(recursive=True))

    def _names(self, recursive: bool) -> list[str]:
        base = f"{self.path}/"
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)

        def look() -> list[fs.FileInfo]:
            found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
            return found

        def list_names() -> list[str]:
            try:
                infos = look()
            except FileNotFoundError:
                # Of a folder of this machine that came in the middle of a look, pyarrow says so.
                infos = look()
            return [
                info.path.removeprefix(base)
                for info in infos
                if info.type == fs.FileType.File or not recursive
            ]

        return self._with_retries(list_names)

    def _info(self) -> fs.FileInfo:
        return self._with_retries(lambda: self.filesystem.get_file_info(self.path))

    def _with_retries(self, action: Callable[[], T]) -> T:
        return with_retries(lambda: self._attempt(action), str(self))

    def _attempt(self, action: Callable[[], T]) -> T:
        """Do it once.

        Raises:
            OSError: it failed. Stores that pyarrow reaches through fsspec, such as ``hf``, raise
                whatever the client for them does.
        """
        try:
            return action()
        except OSError:
            raise
        except Exception as error:
            if not isinstance(self.filesystem, fs.PyFileSystem):
                raise
            raise OSError(f"{type(error).__name__}: {first_line(error)}") from error

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system of pyarrow, in which the object lies at ``path``."""
        return _filesystem(self.root)[0]

    @property
    def path(self) -> str:
        """The path in pyarrow's file system: bucket and key."""
        base = _filesystem(self.root)[1].rstrip("/")
        return f"{base}/{self.key}".rstrip("/")


def remote_path(uri: str) -> RemotePath:
    """Parse a URI of an object or a prefix.

    What follows a question mark are settings; one in a name is written %3F, and a percent sign %25.
    A # is part of the name, as stores have it.

    Raises:
        UserError: it is no URI of a store that is known here, is ambiguous, or holds credentials.
    """
    parts = _split_uri(uri)
    if not parts.netloc and parts.scheme != "file":
        raise UserError(f"{uri} names no bucket: write it as s3://bucket/prefix.")
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise UserError(
            f"{shown} holds credentials: leave them out, they are taken from the environment, a "
            "profile or the machine's role."
        )
    bucket = parts.netloc or "/"  # file:// has no bucket, but a root
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
    """Locate the folder or file, on this machine or in a store, that a user names.

    Raises:
        UserError: it is a URI of no store that is known here, or an ambiguous one.
    """
    if not is_uri(data):
        try:
            return Path(data).expanduser()
        except RuntimeError as error:
            raise UserError(f"{data} cannot be found ({error}): write the path out.") from None
    parts = _split_uri(str(data))
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return remote_path(str(data))


def name_in(uri: str) -> str:
    """Give the last part of a URI, or the bucket where it names nothing in it."""
    parts = _split_uri(uri)
    return unquote(parts.path).strip("/").rpartition("/")[2] or parts.netloc


def _split_uri(uri: str) -> SplitResult:
    """Split a URI whose # and, in that of a file, ? are parts of names.

    Raises:
        UserError: it is none, or says something that would be dropped.
    """
    shown = re.sub(r"://[^/]*@", "://...@", printable(uri))
    if printable(uri) != uri:
        raise UserError(f"{shown} holds a character that a URI cannot: write it as %0A or like it.")
    try:
        parts = urlsplit(uri, allow_fragments=False)
    except ValueError as error:
        raise UserError(f"{shown} is no URI ({error}): write it as s3://bucket/prefix.") from None
    if parts.path and not parts.path.startswith("/"):
        raise UserError(f"{shown} has a # in its bucket: write it as s3://bucket/prefix.")
    if parts.scheme == "file":
        _, mark, rest = uri.partition("?")
        return parts._replace(path=parts.path + mark + rest, query="")
    settings = parts.query.split("&") if "?" in uri else []
    unknown = [setting for setting in settings if "=" not in setting]
    if unknown:
        raise UserError(
            f"{shown} has a question mark, after which a store's settings are expected, such as "
            "region=eu-central-1: write one that is part of a name as %3F."
        )
    return parts


@cache
def _filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """Open pyarrow's file system of a store, which holds its connections.

    Returns:
        The file system, and the path of ``root`` in it.
    """
    if root.startswith("s3://") and "allow_delayed_open" not in root:
        # Small objects go in one request instead of three.
        root += ("&" if "?" in root else "?") + "allow_delayed_open=true"
    filesystem, base = fs.FileSystem.from_uri(root)
    return filesystem, base
