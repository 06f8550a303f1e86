"""A full disk is recognised whoever reports it, told in one sentence, and not waited for long."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tests.factories import is_one_sentence
from trainables.errors import SweepError
from trainables.storage import retry
from trainables.storage.files import write_file
from trainables.storage.full_disk import DiskFullError, disk_state, full_disk_in, full_disk_told

BIG = torch.zeros(300_000)


def save_state(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"w": BIG}, file)


def save_arrow(path: Path) -> None:
    batch = pa.record_batch({"x": pa.array(BIG.numpy())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x"),
    "torch": save_state,
    "torch by its own file": lambda path: torch.save({"w": BIG}, path),
    "arrow": save_arrow,
    "parquet": lambda path: pq.write_table(
        pa.table({"x": np.random.default_rng(0).random(300_000)}), path
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_real_full_device_is_recognised_through_every_library(
    tmp_path: Path, writer: str
) -> None:
    full = tmp_path / "full"  # a link, as a library may remove what it has failed to write
    full.symlink_to("/dev/full")
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each library has a type of its own
        WRITERS[writer](full)
    assert disk_state(raised.value) == errno.ENOSPC


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (sqlite3.OperationalError("database or disk is full"), errno.ENOSPC),
        (sqlite3.OperationalError("attempt to write a readonly database"), errno.EROFS),
        (RuntimeError("Error while serializing: I/O error: (os error 28)"), errno.ENOSPC),
        (RuntimeError("Error while serializing: I/O error: (os error 13)"), None),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
        (OSError(errno.EIO, "Input/output error"), None),
        (ValueError("full of beans"), None),
    ],
)
def test_states_of_a_disk(error: Exception, state: int | None) -> None:
    assert disk_state(error) == state
    outer = LookupError("while writing")
    outer.__cause__ = error
    assert disk_state(outer) == state


def test_a_write_to_a_full_disk_ends_within_seconds_and_says_how_full_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(waited))
    tensors = {"w": torch.zeros(3)}

    def fill(temporary: Path) -> None:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        save_file(tensors, temporary)
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING), pytest.raises(DiskFullError) as raised:
        write_file(tmp_path / "deep" / "w.safetensors", fill)
    assert sum(waited) <= retry.MAX_FULL_S + retry.MAX_PAUSE_S < 30
    (warning,) = caplog.messages
    words = f"The disk of {tmp_path / 'deep' / 'w.safetensors'} is full ("
    assert words in warning
    message = str(raised.value)
    assert message.startswith(words) and "MB free of" in message
    assert message.endswith("free some, and the same command continues.")
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def test_whatever_leaves_a_command_for_a_full_disk_is_told_in_a_sentence() -> None:
    with pytest.raises(DiskFullError) as raised, full_disk_told("/proc/self/none"):
        raise sqlite3.OperationalError("(sqlite3) database or disk is full [SQL: ...]")
    assert is_one_sentence(str(raised.value).replace(". ", ""))
    assert isinstance(raised.value, SweepError)
    with pytest.raises(KeyError), full_disk_told("/tmp"):
        raise KeyError("x")


def test_the_sentence_comes_through_a_trace_of_another_process() -> None:
    sentence = "The disk of /out is full: free some, and the same command continues."
    trace = (
        "ray::TrunkTrainable.train() (pid=1)\n  File x\n"
        f"trainables.storage.full_disk.DiskFullError: {sentence}\n"
    )
    assert str(full_disk_in(trace)) == sentence
    assert full_disk_in("ValueError: of no use") is None
