"""Write files whole or not at all, and read them, in a folder or in an object store.

All functions that take a ``Place`` wait for a file system or object store that does not answer for
a while. Nothing here knows what the files are for.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch
from safetensors.torch import load, load_file, save_file

from trainables.errors import UserError, is_utf8, printable
from trainables.storage.damage import damage_told
from trainables.storage.digests import (
    DIGEST,
    HEADER_LENGTH_BYTES,
    MAX_HEADER_BYTES,
    batch_digest,
    check_digest,
    metadata_of,
    tensor_digest,
)
from trainables.storage.full_disk import full_disk_told
from trainables.storage.hashing import canonical_json, to_jsonable
from trainables.storage.numbered_lines import append_numbered, read_numbered
from trainables.storage.object_store import RemotePath
from trainables.storage.replacing import replacing
from trainables.storage.retry import with_retries

Place = Path | RemotePath
T = TypeVar("T")
log = logging.getLogger("fixres")


def write_file(path: Place, fill: Callable[[Path], None]) -> None:
    """Write a file whole or not at all.

    Args:
        fill: writes the content to the temporary path that it is given; called again where the
            store did not answer.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="fixres-send-") as folder:
            temporary = Path(folder) / path.name
            with full_disk_told(folder):
                fill(temporary)
            path.upload(temporary)
        return

    def write() -> None:
        with replacing(path) as temporary:
            fill(temporary)

    with_retries(write, str(path))


@contextmanager
def local_copy(path: Place) -> Iterator[Path]:
    """Give the file itself, or a copy under its own name that is deleted when the block ends."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fixres-copy-") as folder:
        copy = Path(folder) / path.name
        path.download(copy)
        yield copy


def files_below(folder: Path) -> list[str]:
    """List the files below a folder of this machine, by their names relative to it, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def files_size(folder: Path) -> int:
    """Sum up the bytes of the files below a folder of this machine; 0 where there is none."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def children(path: Place) -> list[Place]:
    """List what lies directly below, sorted; nothing where there is no such folder."""
    if isinstance(path, RemotePath):
        return list(path.children())
    return [*sorted(path.iterdir())] if path.exists() else []


def file_size(path: Place) -> int:
    """Look up the size of a file, bytes."""
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


def write_text(path: Place, text: str) -> None:
    """Write a text file, in UTF-8."""

    def fill(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_file(path, fill)


def write_json(path: Place, value: Any) -> None:
    """Write a value as indented JSON; dataclasses, tuples and paths are turned into what it has."""
    write_text(path, json.dumps(to_jsonable(value), indent=2) + "\n")


def read_json(path: Place) -> Any | None:
    """Read the value at ``path``; None where there is no such file.

    Raises:
        DamagedFileError: it is no JSON.
    """
    return read_record(path, lambda value: value)


def read_record(path: Place, build: Callable[[Any], T]) -> T | None:
    """Build a value from the JSON at ``path``; None where there is no such file.

    Args:
        build: may raise anything for JSON that it has not written.

    Raises:
        DamagedFileError: it is no JSON, or another value's.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    with damage_told(path):
        return build(json.loads(content.decode("utf-8")))


def write_tensors(path: Place, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors of any device and memory layout as safetensors, with their digest."""
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {DIGEST: tensor_digest(contiguous)}
    write_file(path, lambda temporary: save_file(contiguous, temporary, metadata))


def read_tensors(path: Place) -> dict[str, torch.Tensor]:
    """Read safetensors onto the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is cut short, or its content is not what was written.
    """
    if isinstance(path, RemotePath):
        content = path.read_bytes()
        with damage_told(path):
            return _checked_tensors(load(content), metadata_of(content))
    with path.open("rb") as file, damage_told(path):
        header = file.read(HEADER_LENGTH_BYTES)
        header += file.read(min(int.from_bytes(header, "little"), MAX_HEADER_BYTES))
        return _checked_tensors(load_file(path, device="cpu"), metadata_of(header))


def _checked_tensors(
    tensors: dict[str, torch.Tensor], metadata: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    if DIGEST in metadata:
        check_digest(metadata[DIGEST], tensor_digest(tensors))
    return tensors


def write_state(path: Place, state: Mapping[str, Any]) -> None:
    """Write a nested mapping of tensors and plain values, as :func:`read_state` reads it."""

    def fill(temporary: Path) -> None:
        # Into a file of Python's, as torch's own passes on no reason where it cannot write.
        with temporary.open("wb") as file:
            torch.save(dict(state), file)

    write_file(path, fill)


def read_state(path: Place) -> dict[str, Any] | None:
    """Read the state at ``path`` onto the CPU; None where there is no such file.

    It is read as data only (``weights_only``): nothing in a store is executed.

    Raises:
        DamagedFileError: it is cut short, or its content is not what was written.
    """
    try:
        source = io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path.open("rb")
    except FileNotFoundError:
        return None
    with source, damage_told(path):
        with zipfile.ZipFile(source) as archive:
            broken = archive.testzip()  # by the checksums, which torch writes and does not read
        if broken is not None:
            raise ValueError(f"{broken} in it is not what was written, by its checksum")
        source.seek(0)
        state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    return state


def write_batch(path: Place, batch: pa.RecordBatch) -> None:
    """Write an Arrow IPC file of one record batch, which can be read by mapping it."""
    digested = batch.replace_schema_metadata({DIGEST: batch_digest(batch)})

    def fill(temporary: Path) -> None:
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, digested.schema) as writer,
        ):
            writer.write_batch(digested)

    write_file(path, fill)


def read_batch(path: Place) -> pa.RecordBatch:
    """Read the one record batch of an Arrow IPC file; it is mapped where it is a local file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is cut short, or its content is not what was written.
    """
    if isinstance(path, RemotePath):
        source = pa.BufferReader(path.read_bytes())
    elif file_size(path):
        source = pa.memory_map(str(path))
    else:
        source = pa.BufferReader(b"")  # nothing can be mapped of an empty file
    with damage_told(path):
        batch = pa.ipc.open_file(source).get_batch(0)
        batch.validate(full=True)
        expected = (batch.schema.metadata or {}).get(DIGEST.encode())
        if expected is not None:
            check_digest(expected.decode(), batch_digest(batch))
    return batch


def append_line(path: Place, value: Any) -> None:
    """Append one JSON line; it is there after a crash, and so are those of others.

    In an object store, where nothing can be appended to, it is an object of its own: see
    :mod:`trainables.storage.numbered_lines`.
    """
    if isinstance(path, RemotePath):
        append_numbered(path, value)
    else:
        append_bytes(path, canonical_json(value).encode() + b"\n")


def append_bytes(path: Path, line: bytes) -> None:
    """Append a line to a file of this machine, synced to the disk."""
    with_retries(lambda: _append(path, line), str(path))


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the last writer was killed within a line
                file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def raw_lines(path: Place) -> list[bytes]:
    """Read all lines of a file, whatever they hold, without their ends; none: there is no file."""
    if isinstance(path, RemotePath):
        return read_numbered(path)
    try:
        return path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []


def read_lines(path: Place) -> list[Any]:
    """Read every whole JSON line; see :func:`read_records`."""
    return read_records(path, lambda value: value)


def read_records(path: Place, build: Callable[[Any], T]) -> list[T]:
    """Build a value from every JSON line; what a crash cut short or damage spoilt is left out.

    A warning says which lines are left out.

    Args:
        build: may raise anything for JSON that it has not written.
    """
    values, spoilt = [], []
    for number, line in enumerate(raw_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values.append(build(json.loads(line.decode("utf-8"))))
        except Exception:  # of any type, as any bytes may stand there
            spoilt.append(number)
    if spoilt:
        log.warning(
            "%s: %d of %d lines cannot be read (the first is line %d), cut short or damaged: they "
            "are left out, and what they said is found elsewhere or decided anew",
            path, len(spoilt), len(spoilt) + len(values), spoilt[0],
        )  # fmt: skip
    return values


def make_writable(folder: Path, setting: str) -> None:
    """Create ``folder`` and check that files can be written there.

    Args:
        setting: by which the user names the folder, for the message.

    Raises:
        UserError: it cannot be made or written to, or its name is no UTF-8.
    """
    if not is_utf8(str(folder)):
        raise UserError(
            f"`{setting}` {printable(str(folder))} has a name that is not UTF-8: name another "
            "folder, or give a link to it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"`{setting}` {folder} cannot be written to ({error.strerror or error}): "
            "name a folder that you may write."
        ) from None
