"""Files that hold something else than what was written are named, and nothing else is raised."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.storing import S3Server
from trainables.storage.damage import DamagedFileError, unless_damaged
from trainables.storage.files import (
    read_batch,
    read_json,
    read_lines,
    read_record,
    read_state,
    read_tensors,
    write_batch,
    write_state,
    write_tensors,
)
from trainables.storage.object_store import remote_path
from trainables.storage.state_values import read_values
from trainables.storage.typed import checked

TENSORS = {
    "conv.weight": torch.randn(7, 3),
    "count": torch.tensor(3),
    "half": torch.randn(5).bfloat16(),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0),
}
BATCH = pa.record_batch(
    {
        "label": pa.array(np.arange(37)),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(74, dtype=np.float32)), 2),
    }
)
STATE = {"model": {"w": torch.randn(60)}, "reports": [{"epoch": 1}], "progress": None}
READERS: dict[str, tuple[Callable[[Path], None], Callable[[Any], Any]]] = {
    "tensors": (lambda path: write_tensors(path, TENSORS), read_tensors),
    "batch": (lambda path: write_batch(path, BATCH), read_batch),
    "state": (lambda path: write_state(path, STATE), read_state),
}
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def as_plain(value: Any) -> Any:
    if isinstance(value, pa.RecordBatch):
        return value.to_pydict()
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: as_plain(v) for name, v in value.items()}
    return value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_no_flipped_bit_goes_unnoticed_and_none_is_a_traceback(tmp_path: Path, kind: str) -> None:
    write, read = READERS[kind]
    path, rng = tmp_path / "file", random.Random(0)
    write(path)
    content, expected = path.read_bytes(), as_plain(read(path))
    noticed = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read(path)
        except DamagedFileError:
            noticed += 1
        else:  # padding, or a field that nobody reads
            assert as_plain(found) == expected
    assert noticed > len(content) / 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_damaged(tmp_path: Path, kind: str, share: float) -> None:
    write, read = READERS[kind]
    path = tmp_path / "file"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DamagedFileError):
        read(path)
    assert unless_damaged(lambda: read(path)) is None


@pytest.mark.parametrize("kind", ["tensors", "batch"])
def test_files_from_before_there_were_digests_are_taken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "tensors":
        save_file(TENSORS, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, BATCH.schema) as writer:
            writer.write_batch(BATCH)
    expected: Any = TENSORS if kind == "tensors" else BATCH
    assert as_plain(READERS[kind][1](path)) == as_plain(expected)


@pytest.mark.parametrize("kind", READERS)
def test_a_flipped_bit_in_an_object_store_is_noticed(
    tmp_path: Path, s3: S3Server, kind: str
) -> None:
    write, read = READERS[kind]
    write(tmp_path / "file")
    content = bytearray((tmp_path / "file").read_bytes())
    content[len(content) // 2] ^= 1
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/file"))
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=f"{tmp_path.name}/file is damaged"):
        read(path)


@quick
@given(content=st.binary(max_size=200))
def test_any_bytes_for_a_file_end_in_a_value_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (read_tensors, read_batch, read_state, read_values, read_json):
        with pytest.raises(DamagedFileError) if not _is_json(read, content) else _nothing():
            read(path)
    read_lines(path)


def _is_json(read: object, content: bytes) -> bool:
    if read is not read_json:
        return False
    try:
        json.loads(content.decode())
    except ValueError:
        return False
    return True


class _nothing:  # noqa: N801 - stands for pytest.raises
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b"", b"{", b"\x00"])
def test_what_is_no_json_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read_json(path)
    path.write_bytes(content + b'\n{"n": 1}\n')
    assert read_lines(path) == [{"n": 1}]


def test_lines_that_are_left_out_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"n": 1}\n\xff\n{"n": 3}\n{"n"\n')
    assert [line["n"] for line in read_lines(path)] == [1, 3]
    (message,) = caplog.messages
    assert message.startswith(f"{path}: 2 of 4 lines cannot be read (the first is line 2)")


def test_an_error_survives_the_way_from_a_worker() -> None:
    error = DamagedFileError(Path("/s/x"), "cut short")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.why) == (str(error), error.path, "cut short")


@dataclass(frozen=True)
class Inner:
    n: int


@dataclass(frozen=True)
class Sample:
    count: int
    share: float
    name: str | None
    kind: Literal["a", "b"]
    pair: tuple[float, float]
    many: tuple[int, ...]
    inner: Inner
    flag: bool = False


GOOD: dict[str, Any] = {
    "count": 1, "share": 1, "name": None, "kind": "a", "pair": (0, 0.5), "many": (1, 2),
    "inner": Inner(1),
}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"count": 1.0},
        {"count": True},
        {"share": "1"},
        {"share": None},
        {"name": 1},
        {"kind": "c"},
        {"pair": (1.0,)},
        {"pair": [0.0, 1.0]},
        {"many": (1, "2")},
        {"inner": {"n": 1}},
        {"flag": 0},
    ],
)
def test_fields_of_other_types_are_refused(other: dict[str, Any], tmp_path: Path) -> None:
    assert checked(Sample(**GOOD)) == Sample(**GOOD)
    with pytest.raises(TypeError, match=next(iter(other))):
        checked(Sample(**GOOD | other))
    (tmp_path / "x.json").write_text('{"n": "1"}')
    with pytest.raises(DamagedFileError, match="n is str"):
        read_record(tmp_path / "x.json", lambda value: checked(Inner(**value)))
