"""Writes that are refused where another process has written."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import obstore
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from obstore.exceptions import GenericError
from pyarrow import fs

from tests.storing import S3Server
from trainables.storage import conditional, object_store
from trainables.storage.object_store import RemotePath, remote_path

WRITERS = 8


@pytest.fixture(autouse=True)
def unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has found out of a server is nothing to the next; none waits for one."""
    monkeypatch.setattr(conditional, "_ignored", set())
    monkeypatch.setattr("trainables.storage.retry.MAX_OUTAGE_S", 1.0)


@pytest.fixture(params=["folder", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> RemotePath:
    if request.param == "folder":
        return RemotePath(root="file:///", key=str(tmp_path / "a").strip("/"))
    server: S3Server = request.getfixturevalue("s3")
    return remote_path(server.uri(f"tests/{tmp_path.name}"))


def test_an_object_is_created_once_and_replaced_as_it_was_read(prefix: RemotePath) -> None:
    path = prefix / "x.json"
    assert conditional.read(path) is None
    assert conditional.replace(path, b"0", {"e_tag": '"of nothing"'}) is None
    first = conditional.create(path, b"1")
    assert first is not None and conditional.create(path, b"2") is None
    second = conditional.replace(path, b"3", first)
    assert second is not None and conditional.replace(path, b"4", first) is None
    assert conditional.read(path) == (b"3", second)
    path.unlink()
    assert conditional.replace(path, b"5", second) is None and not path.exists()
    assert conditional.shortcoming(prefix) is None
    assert [child.name for child in prefix.children()] == []


def winners(write: Callable[[int], object]) -> list[int]:
    """Let many write at once; who was not refused."""
    gate = threading.Barrier(WRITERS)

    def one(writer: int) -> bool:
        gate.wait()
        return write(writer) is not None

    with ThreadPoolExecutor(WRITERS) as pool:
        return [i for i, won in enumerate(pool.map(one, range(WRITERS))) if won]


def test_of_many_at_once_one_writes(prefix: RemotePath) -> None:
    # SeaweedFS often lets a write wait for a second where another is under way.
    for number in range(20 if prefix.scheme == "file" else 4):
        path = prefix / f"{number}.json"
        (winner,) = winners(lambda i, path=path: conditional.create(path, b"%d" % i))  # type: ignore[misc]
        content, tag = conditional.read(path) or (b"", {})
        assert content == b"%d" % winner
        (winner,) = winners(lambda i, p=path, t=tag: conditional.replace(p, b"again %d" % i, t))  # type: ignore[misc]
        assert (conditional.read(path) or (b"", {}))[0] == b"again %d" % winner


def test_a_write_whose_answer_was_lost_counts_as_made(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/x.json"))
    monkeypatch.setattr("trainables.storage.retry.FIRST_PAUSE_S", 0.01)
    put, lost = obstore.put, [True, True]

    def put_and_lose(*args: Any, **kwargs: Any) -> Any:
        made = put(*args, **kwargs)
        if lost and lost.pop():
            raise GenericError("connection closed before message completed")
        return made

    monkeypatch.setattr(obstore, "put", put_and_lose)
    tag = conditional.create(path, b"mine")
    assert tag is not None and len(lost) == 1
    assert conditional.replace(path, b"mine still", tag) == (conditional.read(path) or (b"", {}))[1]
    assert lost == [] and conditional.create(path, b"another's") is None


def test_a_server_that_takes_no_heed_is_told_of_and_asked_first(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = remote_path(s3.uri(f"tests/{tmp_path.name}"))
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *args, mode, **kwargs: put(*args, **kwargs))
    said = conditional.shortcoming(prefix)
    assert said is not None and f"{prefix} does not refuse a write" in said
    first = conditional.create(prefix / "x", b"1")
    assert first is not None and conditional.create(prefix / "x", b"2") is None
    assert conditional.replace(prefix / "x", b"3", first) is not None
    assert conditional.replace(prefix / "x", b"4", first) is None
    assert (prefix / "x").read_bytes() == b"3"


def test_a_store_whose_conditions_cannot_be_used_is_told_of_at_once(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = remote_path(s3.uri(f"tests/{tmp_path.name}"))

    def fail(*_: object, **__: object) -> None:
        raise GenericError("no certificate is trusted")

    monkeypatch.setattr(obstore, "put", fail)
    monkeypatch.setattr(obstore, "get", fail)
    assert "(no certificate is trusted)" in (conditional.shortcoming(prefix) or "")
    first = conditional.create(prefix / "x", b"1")
    assert first is not None and conditional.create(prefix / "x", b"2") is None
    assert conditional.replace(prefix / "x", b"3", first) is not None


def test_a_folder_without_hard_links_is_told_of_and_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    prefix = RemotePath(root="file:///", key=str(tmp_path / "a").strip("/"))
    assert "Operation not permitted" in (conditional.shortcoming(prefix) or "")
    first = conditional.create(prefix / "x", b"1")
    assert first is not None and conditional.create(prefix / "x", b"2") is None
    assert conditional.replace(prefix / "x", b"3", first) is not None
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_a_store_that_pyarrow_alone_knows_is_told_of_and_asked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    monkeypatch.setattr(object_store, "_filesystem", lambda root: (filesystem, ""))
    prefix = RemotePath(root="hf://datasets", key="x")
    assert "no client for it" in (conditional.shortcoming(prefix) or "")
    first = conditional.create(prefix / "x", b"1")
    assert first is not None and conditional.create(prefix / "x", b"2") is None
    assert conditional.replace(prefix / "x", b"3", first) is not None
    assert conditional.replace(prefix / "x", b"4", first) is None


class Recorded(BaseHTTPRequestHandler):
    """Answers as Google's and Azure's stores do where there is an object, and keeps requests."""

    seen: ClassVar[list[tuple[str, str, dict[str, str]]]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.send_response(412)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def recording() -> Iterator[str]:
    Recorded.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_google_is_asked_by_its_own_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
    with recording() as address:
        path = remote_path(f"gs://bucket/a/x.json?scheme=http&endpoint_override={address}")
        assert conditional.create(path, b"1") is None
        assert conditional.replace(path, b"2", {"e_tag": '"a"', "version": "17"}) is None
    (_, created, first), (_, replaced, second) = Recorded.seen
    assert unquote(created) == "/bucket/a/x.json" and replaced == created
    assert first["x-goog-if-generation-match"] == "0"
    assert second["x-goog-if-generation-match"] == "17"


def test_azure_is_asked_by_its_own_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    with recording() as address:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://{address}")
        path = RemotePath(root="abfs://account.blob.core.windows.net", key="container/a/x.json")
        client = conditional._client(path)
        assert client is not None
        for mode in ("create", {"e_tag": '"a"'}):
            assert conditional._put(client, path, b"1", "create", mode) is None
    (_, created, first), (_, _, second) = Recorded.seen
    assert created.endswith("container/a/x.json")
    assert first["if-none-match"] == "*" and second["if-match"] == '"a"'
