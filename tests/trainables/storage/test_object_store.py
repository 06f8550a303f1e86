"""A store in an object store: the same results as in a folder, and patience."""

from __future__ import annotations

import errno
import pickle
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.storing import S3Server, served
from trainables.errors import SweepError, UserError
from trainables.storage import retry
from trainables.storage.files import (
    Place,
    append_line,
    children,
    local_copy,
    read_batch,
    read_json,
    read_lines,
    read_state,
    read_tensors,
    size,
    write_batch,
    write_json,
    write_state,
    write_tensors,
)
from trainables.storage.object_store import RemotePath, remote_path
from trainables.storage.retry import is_transient, with_retries


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return tmp_path / "store"
    server: S3Server = request.getfixturevalue("s3")
    return remote_path(server.uri(f"tests/{tmp_path.name}/store"))


def test_what_is_written_is_read(place: Place) -> None:
    write_json(place / "a" / "value.json", {"x": [1, 2.5, None]})
    assert read_json(place / "a" / "value.json") == {"x": [1, 2.5, None]}
    tensors = {"w": torch.randn(3, 4), "n": torch.arange(5)}
    write_tensors(place / "t.safetensors", tensors)
    assert all(torch.equal(read_tensors(place / "t.safetensors")[k], v) for k, v in tensors.items())
    write_state(place / "state.pt", {"deep": {"w": tensors["w"]}, "epoch": 3})
    state = read_state(place / "state.pt")
    assert state is not None and state["epoch"] == 3
    assert torch.equal(state["deep"]["w"], tensors["w"])
    batch = pa.record_batch({"label": pa.array(np.arange(7))})
    write_batch(place / "b.arrow", batch)
    assert read_batch(place / "b.arrow").equals(batch)


def test_what_is_not_there_is_none(place: Place) -> None:
    assert read_json(place / "nope.json") is None
    assert read_state(place / "nope.pt") is None
    assert read_lines(place / "nope.jsonl") == []
    assert children(place / "nope") == []
    assert not (place / "nope.json").exists()
    (place / "nope.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        read_tensors(place / "nope.safetensors")


def test_lines_are_appended_and_a_cut_one_is_passed_over(place: Place) -> None:
    for i in range(3):
        append_line(place / "log.jsonl", {"i": i})
    assert read_lines(place / "log.jsonl") == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_children_are_files_and_folders_sorted(place: Place) -> None:
    for name in ("b", "a"):
        write_json(place / "trunks" / name / "spec.json", {})
    write_json(place / "trunks" / "c.json", {})
    assert [child.name for child in children(place / "trunks")] == ["a", "b", "c.json"]
    assert size(place / "trunks" / "c.json") == 3
    assert not (place / "trunks" / "a").exists() or isinstance(place, Path)
    (place / "trunks" / "c.json").unlink()
    assert [child.name for child in children(place / "trunks")] == ["a", "b"]


def test_a_local_copy_bears_the_name_and_the_bytes(place: Place) -> None:
    write_tensors(place / "trunk.safetensors", {"w": torch.ones(3)})
    with local_copy(place / "trunk.safetensors") as copy:
        assert copy.name == "trunk.safetensors"
        assert torch.equal(read_tensors(copy)["w"], torch.ones(3))
    assert copy.exists() == isinstance(place, Path)


def test_large_files_go_in_parts(s3: S3Server, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 30_000_000, dtype=np.uint8).tobytes()
    (tmp_path / "large").write_bytes(data)
    path = remote_path(s3.uri("tests/large"))
    path.upload(tmp_path / "large")
    assert path.size() == len(data)
    path.download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data == path.read_bytes()


def test_a_path_reads_like_one(s3: S3Server) -> None:
    path = remote_path(s3.uri("a/b/c.json?region=us-east-1"))
    assert str(path) == "s3://sweeps/a/b/c.json" and path.name == "c.json"
    assert path.uri == "s3://sweeps/a/b/c.json?region=us-east-1"
    assert str(path.parent / "d") == "s3://sweeps/a/b/d"
    assert path.with_suffix(".arrow").name == "c.arrow"
    assert path.settings == {"region": "us-east-1"} and path.bucket == "sweeps"
    assert pickle.loads(pickle.dumps(path)) == path == remote_path(path.uri)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("nonsense://bucket/prefix", "no store that is known"),
        ("s3://AKIA:secret@bucket/prefix", "holds credentials"),
    ],
)
def test_what_is_no_place_is_refused(uri: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        remote_path(uri)
    assert "secret" not in str(refused.value)


def test_an_outage_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        # Its settings make it a connection of this test's own.
        path = remote_path(server.uri(f"log.jsonl?endpoint_override={server.endpoint}"))
        append_line(path, {"i": 0})
        server.kill()
        later = threading.Timer(3.0, server.start)
        later.start()
        append_line(path, {"i": 1})
        later.join()
        assert read_lines(path) == [{"i": 0}, {"i": 1}]


def test_patience_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MAX_OUTAGE_S", 0.0)
    monkeypatch.setattr(retry, "MAX_PAUSE_S", 0.01)
    tries = []

    def act() -> None:
        tries.append(1)
        raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation: no route\nmore")

    with pytest.raises(SweepError, match=r"out/x could not be .*no route\): the same command"):
        with_retries(act, "out/x")
    assert len(tries) <= 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("AWS Error SLOW_DOWN during PutObject operation"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation"), True),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation"), False),
        (OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation"), False),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EIO, "input/output error"), True),
        (PermissionError(errno.EACCES, "denied"), False),
        (FileNotFoundError(errno.ENOENT, "none"), False),
    ],
)
def test_what_may_pass(error: OSError, expected: bool) -> None:
    assert is_transient(error) is expected


def test_nothing_is_tried_again_that_cannot_pass() -> None:
    tries = []

    def act() -> None:
        tries.append(1)
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        with_retries(act, "x")
    assert len(tries) == 1


def test_a_store_without_whole_writes_gets_them(tmp_path: Path) -> None:
    """file:// stands for a file system where a file is seen while it is written."""
    path = RemotePath(root="file:///", key=str(tmp_path / "a" / "b.json").strip("/"))
    write_json(path, {"x": 1})
    write_json(path, {"x": 2})
    assert read_json(path) == {"x": 2}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]
