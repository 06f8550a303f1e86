"""Paths in an object store."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from pyarrow import fs

from tests.storing import S3Server, served
from trainables.errors import SweepError, UserError
from trainables.storage import object_store
from trainables.storage.files import append_line, read_json, read_lines, write_json
from trainables.storage.object_store import RemotePath, name_in, place_of, remote_path


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
        ("s3://bucket/what?a", "write one that is part of a name as %3F"),
        ("s3://bucket/what?", "write one that is part of a name as %3F"),
        ("s3://AKIA:secret@bucket/what?a", "as %3F"),
        ("s3://bucket#2/prefix", "has a # in its bucket"),
        ("s3://[bucket/prefix", "is no URI"),
        ("s3://bucket/pre\nfix", r"pre\\nfix holds a character that a URI cannot"),
    ],
)
def test_a_uri_of_no_known_store_is_refused(uri: str, said: str) -> None:
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


def test_a_store_without_whole_writes_gets_them(tmp_path: Path) -> None:
    """file:// stands for a file system where a file is seen while it is written."""
    path = RemotePath(root="file:///", key=str(tmp_path / "a" / "b.json").strip("/"))
    write_json(path, {"x": 1})
    write_json(path, {"x": 2})
    assert read_json(path) == {"x": 2}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///x%20y/z", Path("/x y/z")),
        ("file://localhost/x", Path("/x")),
        ("file:///x/pre#fix", Path("/x/pre#fix")),
        ("file:///x/what?a=b", Path("/x/what?a=b")),
        ("file:///x/50%", Path("/x/50%")),
        ("file:///x/a%23%3F%25", Path("/x/a#?%")),
        ("/x/a://b#c?", Path("/x/a://b#c?")),
        ("~/x", Path.home() / "x"),
        ("a=b/c", Path("a=b/c")),
    ],
)
def test_paths_on_this_machine(uri: str, path: Path) -> None:
    assert place_of(uri) == path


@pytest.mark.parametrize(
    ("uri", "key", "name"),
    [
        ("s3://bucket/pre#fix?region=eu-west-1", "pre#fix", "pre#fix"),
        ("s3://bucket/a/what%3Fa?region=eu-west-1", "a/what?a", "what?a"),
        ("s3://bucket/50%25?region=eu-west-1", "50%", "50%"),
        ("s3://bucket/a%2520b/?region=eu-west-1", "a%20b", "a%20b"),
        ("s3://bucket?region=eu-west-1", "", "bucket"),
        ("file:///tmp/x#2/what?a", "tmp/x#2/what?a", "what?a"),
    ],
)
def test_signs_in_names_are_kept_and_written_back(uri: str, key: str, name: str) -> None:
    path = remote_path(uri)
    assert path.key == key and name_in(uri) == name
    assert remote_path(path.uri) == path


@pytest.mark.parametrize("uri", ["s3:///x", "nowhere://b/x", "file://host/x", "s3://k:s@b/x"])
def test_uris_of_no_store_are_no_paths(uri: str) -> None:
    with pytest.raises(UserError) as caught:
        place_of(uri)
    assert "k:s" not in str(caught.value)


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(UserError, match=r"^~nobody-here/x cannot be found \(.*home.*\): write"):
        place_of("~nobody-here/x")


def test_a_uri_of_a_store_is_a_path_there(tmp_path: Path) -> None:
    uri = "s3://bucket/a?region=eu-west-1"
    assert place_of(uri) == remote_path(uri)
    assert place_of(tmp_path) == tmp_path


class ClientError(Exception):
    """What the client of a store raises that pyarrow knows through fsspec alone."""


def test_whatever_the_client_of_a_store_raises_is_an_error_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ClientError("Name or service not known")

    monkeypatch.setattr(MemoryFileSystem, "info", fail)
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    monkeypatch.setattr(object_store, "_filesystem", lambda root: (filesystem, ""))
    path = remote_path("hf://datasets/x/y")
    with pytest.raises(OSError, match=r"^ClientError: Name or service not known$"):
        path.check_reachable()
    monkeypatch.setattr("trainables.storage.retry.MAX_OUTAGE_S", 0.0)
    with pytest.raises(SweepError, match="ClientError"):
        path.exists()


def test_a_folder_that_comes_while_it_is_looked_for_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remote_path(f"file://{tmp_path}/a")
    real = path.filesystem

    class JustCome:
        def get_file_info(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
            if not (tmp_path / "a").exists():
                (tmp_path / "a").mkdir()
                (tmp_path / "a" / "file").touch()
                raise FileNotFoundError(f"Cannot list directory '{selector.base_dir}'")
            found: list[fs.FileInfo] = real.get_file_info(selector)
            return found

    monkeypatch.setattr(RemotePath, "filesystem", JustCome())
    assert [child.name for child in path.children()] == ["file"]
