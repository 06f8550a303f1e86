"""The store: content-addressed results, each written whole or not at all, in a folder or in an
object store.

    weights/<variant>-<digest>.safetensors      pretrained weights as the sweep found them
    trunks/<key>/{spec,result}.json, state.pt, trunk.safetensors, work.jsonl
    activations/<key>.json                      quantiles of a trunk's pooled activations
    cells/<key>/{spec,rows}.json, delta-<arm>.safetensors, {train,val,predictions}.arrow
    latency/<key>.json                          of a net on a device
    readings/<key>.json                         one reading of the test split, or of a further set
    readings.jsonl                              every look at them, in order
    journal.jsonl                               what the driver decided, in order

Waits for a file system or object store that does not answer for a while, reading and writing.
Knows nothing of what is kept in it. A key is a digest of all that the result depends on, so that
finding it there is the same as having made it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import load, load_file, save_file

from trainables.errors import UserError
from trainables.storage.hashing import canonical_json, to_jsonable
from trainables.storage.object_store import RemotePath
from trainables.storage.retry import with_retries

Place = Path | RemotePath


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed onto it when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would lock other users out of a shared store
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, put whole in its place when the block ends well.

    Whatever was at ``path`` goes, or stays as it was where the block fails. The files become
    readable by everyone: the folder is to be handed over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    former = fresh.with_name(f"{fresh.name}.old")
    try:
        yield fresh
        for inner in [fresh, *fresh.rglob("*")]:
            inner.chmod(0o755 if inner.is_dir() else 0o644)
        if path.exists():
            path.rename(former)
        fresh.rename(path)
    finally:
        if former.exists() and not path.exists():  # interrupted between the two
            former.rename(path)
        shutil.rmtree(former, ignore_errors=True)
        shutil.rmtree(fresh, ignore_errors=True)


def write_file(path: Place, fill: Callable[[Path], None]) -> None:
    """Write a file whole: ``fill`` is given a temporary path, more than once if the store is out
    for a while."""
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="fixres-send-") as folder:
            temporary = Path(folder) / path.name
            fill(temporary)
            path.upload(temporary)
        return

    def write() -> None:
        with replacing(path) as temporary:
            fill(temporary)

    with_retries(write, str(path))


@contextmanager
def local_copy(path: Place) -> Iterator[Path]:
    """The file itself, or a copy of it for as long as the block runs, under its own name."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fixres-copy-") as folder:
        copy = Path(folder) / path.name
        path.download(copy)
        yield copy


def files_below(folder: Path) -> list[str]:
    """The files below a folder of this machine, by their names relative to it, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def children(path: Place) -> list[Place]:
    """What lies directly below, sorted; nothing where there is no such folder."""
    if isinstance(path, RemotePath):
        return list(path.children())
    return [*sorted(path.iterdir())] if path.exists() else []


def size(path: Place) -> int:
    """Bytes."""
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


def write_text(path: Place, text: str) -> None:
    write_file(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Place, value: Any) -> None:
    write_text(path, json.dumps(to_jsonable(value), indent=2) + "\n")


def read_json(path: Place) -> Any | None:
    """The value at ``path``, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_tensors(path: Place, tensors: Mapping[str, torch.Tensor]) -> None:
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_file(path, lambda temporary: save_file(whole, temporary))


def read_tensors(path: Place) -> dict[str, torch.Tensor]:
    if isinstance(path, RemotePath):
        return load(path.read_bytes())
    return load_file(path, device="cpu")


def write_state(path: Place, state: Mapping[str, Any]) -> None:
    """Tensors and plain values, nested as they are."""
    write_file(path, lambda temporary: torch.save(dict(state), temporary))


def read_state(path: Place) -> dict[str, Any] | None:
    """The state at ``path``, on the CPU, or None where there is none.

    The store is ours, yet it is read as data only (``weights_only``).
    """
    try:
        source = io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path
        state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    return state


def write_batch(path: Place, batch: pa.RecordBatch) -> None:
    """An Arrow IPC file of one record batch, which can be read by mapping it."""

    def fill(temporary: Path) -> None:
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    write_file(path, fill)


def read_batch(path: Place) -> pa.RecordBatch:
    """The one record batch of an Arrow IPC file, mapped where it lies on this machine."""
    if isinstance(path, RemotePath):
        return pa.ipc.open_file(pa.BufferReader(path.read_bytes())).get_batch(0)
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def append_line(path: Place, value: Any) -> None:
    """Append one JSON line and see it onto the disk: what is written is there after a crash.

    A file has one writer at a time. Objects cannot be appended to: they are written anew.
    """
    line = canonical_json(value).encode() + b"\n"
    if isinstance(path, RemotePath):
        path.write_bytes(_read_whole(path) + line)
    else:
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


def _read_whole(path: Place) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_lines(path: Place) -> list[Any]:
    """Every whole JSON line; a line cut short by a crash is passed over."""
    values = []
    for line in _read_whole(path).decode("utf-8", errors="replace").splitlines():
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return values


def make_writable(folder: Path, setting: str) -> None:
    """Create ``folder``, which the user names by ``setting``, and prove that it takes a file.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"`{setting}` {folder} cannot be written to ({error.strerror or error}): "
            "name a folder that you may write."
        ) from None
