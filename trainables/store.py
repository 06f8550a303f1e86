"""The store: a folder of content-addressed results, each written whole or not at all.

    weights/<variant>-<digest>.safetensors      pretrained weights as the sweep found them
    trunks/<key>/{spec,result}.json, state.pt, trunk.safetensors, work.jsonl
    activations/<key>.json                      quantiles of a trunk's pooled activations
    cells/<key>/{spec,rows}.json, delta-<arm>.safetensors, {train,val,predictions}.arrow
    latency/<key>.json                          of a net on a device
    readings/<key>.json                         one reading of the test split, or of a further set
    readings.jsonl                              every look at them, in order
    journal.jsonl                               what the driver decided, in order

Knows nothing of what is kept in it. A key is a digest of all that the result depends on, so that
finding it there is the same as having made it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from trainables.errors import UserError
from trainables.keys import canonical, plain


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


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(plain(value), indent=2) + "\n")


def read_json(path: Path) -> Any | None:
    """The value at ``path``, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    with replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path, device="cpu")


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors and plain values, nested as they are."""
    with replacing(path) as temporary:
        torch.save(dict(state), temporary)


def read_state(path: Path) -> dict[str, Any] | None:
    """The state at ``path``, on the CPU, or None where there is none.

    The store is ours, yet it is read as data only (``weights_only``).
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    return state


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """An Arrow IPC file of one record batch, which can be read by mapping it."""
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line and see it onto the disk: what is written is there after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the last writer was killed within a line
                file.write(b"\n")
        file.write(canonical(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """Every whole JSON line; a line cut short by a crash is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return values


@dataclasses.dataclass(frozen=True)
class Store:
    """Where things are kept. ``root`` must be seen by the driver and by every worker."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def readings(self) -> Path:
        return self.root / "readings.jsonl"

    def weights(self, name: str) -> Path:
        return self.root / "weights" / f"{name}.safetensors"

    def trunk(self, key: str) -> Path:
        return self.root / "trunks" / key

    def cell(self, key: str) -> Path:
        return self.root / "cells" / key

    def activations(self, key: str) -> Path:
        return self.root / "activations" / f"{key}.json"

    def latency(self, key: str) -> Path:
        return self.root / "latency" / f"{key}.json"

    def reading(self, key: str) -> Path:
        return self.root / "readings" / f"{key}.json"


def make_writable(folder: Path, option: str) -> None:
    """Create ``folder`` and prove that it takes a file.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {folder} cannot be written to ({error.strerror or error}): "
            "name a folder that you may write."
        ) from None
