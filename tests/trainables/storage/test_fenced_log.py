"""Logs that one process at a time continues: lines are lost to nobody, and others are noticed."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.storing import S3Server
from trainables.errors import ReplacedError
from trainables.storage import fenced_log as fenced
from trainables.storage import numbered_lines
from trainables.storage.fenced_log import FencedLog, fenced_log, has_lines, is_opening
from trainables.storage.files import Place, append_line, read_lines
from trainables.storage.numbered_lines import last_number, line_path
from trainables.storage.object_store import RemotePath, remote_path


@pytest.fixture(params=["disk", "folder", "s3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return tmp_path / "a" / "journal.jsonl"
    if request.param == "folder":
        return RemotePath(root="file:///", key=str(tmp_path / "a" / "journal.jsonl").strip("/"))
    server: S3Server = request.getfixturevalue("s3")
    return remote_path(server.uri(f"tests/{tmp_path.name}/journal.jsonl"))


def said(path: Place) -> list[object]:
    return [line for line in read_lines(path) if not is_opening(line)]


def opened(path: Place, epoch: int) -> FencedLog:
    log = fenced_log(path)
    log.open(epoch, f"driver {epoch}")
    return log


def test_lines_come_back_in_their_order(path: Place) -> None:
    assert not has_lines(path) and read_lines(path) == []
    log = opened(path, 1)
    assert not has_lines(path)
    lines = [{"i": i, "text": "two\nlines \u2028", "x": 0.1 + i} for i in range(12)]
    for line in lines:
        log.append(line)
    log.check()
    assert said(path) == lines and has_lines(path)


def test_threads_of_the_process_that_writes_are_no_other_process(path: Place) -> None:
    log, over = opened(path, 1), threading.Event()

    def look() -> int:
        looks = 0
        while not over.is_set():
            log.check()
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as pool:
        watching = [pool.submit(look) for _ in range(2)]
        try:
            for i in range(40):
                log.append({"i": i})
        finally:
            over.set()
        assert all(watcher.result() for watcher in watching)
    assert said(path) == [{"i": i} for i in range(40)]


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_an_interrupt_while_a_line_is_written_is_no_other_process(
    path: Place, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(path, 1)
    log.append({"i": 0})
    module, name = (
        (numbered_lines, "create_line")
        if isinstance(path, RemotePath)
        else (fenced, "append_bytes")
    )
    write = getattr(module, name)

    def interrupted(*args: Any) -> None:
        if moment == "within" and isinstance(path, Path):
            args = (args[0], args[1][:5])
        if moment == "after" or (moment == "within" and isinstance(path, Path)):
            write(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append({"i": 1})
    log.check()
    log.append({"i": 2})
    log.check()
    written = [{"i": 1}] if moment == "after" else []
    assert [line for line in said(path) if line] == [{"i": 0}, *written, {"i": 2}]
    opened(path, 2)
    with pytest.raises(ReplacedError):
        log.check()


def test_one_that_stood_still_is_refused_and_writes_nothing(path: Place) -> None:
    first = opened(path, 1)
    first.append({"i": 0})
    first.check()
    second = opened(path, 2)  # has decided nothing yet
    with pytest.raises(ReplacedError, match=r"was continued by another sweep \(driver 2\)"):
        first.check()
    with pytest.raises(ReplacedError, match=r"was continued by another sweep \(driver 2\)"):
        first.append({"i": "late"})
    second.append({"i": 1})
    with pytest.raises(ReplacedError):
        first.append({"i": "late"})
    second.check()
    assert said(path) == [{"i": 0}, {"i": 1}]


def test_without_an_opening_the_second_to_write_is_refused(path: Place) -> None:
    """As where the journal is read and continued without a lease."""
    append_line(path, {"i": 0})
    one, other = fenced_log(path), fenced_log(path)
    one.append({"i": 1})
    with pytest.raises(ReplacedError):
        other.append({"i": 1})
    one.append({"i": 2})
    assert said(path) == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_what_was_written_up_to_the_opening_is_read_after_it(path: Place) -> None:
    first, second = opened(path, 1), fenced_log(path)
    first.append({"i": 0})  # between the second's look and its opening
    if isinstance(path, Path):
        with pytest.raises(ReplacedError):  # the folder's lock keeps this from happening
            second.open(2, "driver 2")
        return
    second.open(2, "driver 2")
    with pytest.raises(ReplacedError):
        first.append({"i": 1})
    second.append({"i": 2})
    assert said(path) == [{"i": 0}, {"i": 2}]


def test_an_opening_that_comes_too_late_stops_only_itself(path: Place) -> None:
    """A driver may stand still between taking its lease and opening the journal."""
    if isinstance(path, Path):
        pytest.skip("there the lock of the folder is the lease")
    late = fenced_log(path)
    second = opened(path, 2)
    late.open(1, "driver 1")
    second.check()
    late.open(1, "driver 1")
    second.append({"i": 0})
    with pytest.raises(ReplacedError, match=r"driver|another sweep"):
        late.append({"i": "late"})
    assert said(path) == [{"i": 0}]


def test_many_at_once_lose_no_line_and_share_no_number(path: Place) -> None:
    writers, each = (8, 10) if not isinstance(path, RemotePath) or path.scheme == "file" else (4, 5)

    def write(writer: int) -> None:
        for i in range(each):
            append_line(path, {"writer": writer, "i": i})

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    lines = read_lines(path)
    assert len(lines) == writers * each
    for writer in range(writers):
        assert [line["i"] for line in lines if line["writer"] == writer] == list(range(each))
    if isinstance(path, RemotePath):
        assert last_number(path) == writers * each


def test_a_file_of_an_earlier_version_is_continued(path: Place) -> None:
    if isinstance(path, Path):
        path.parent.mkdir()
    path.write_bytes(b'{"i": 0}\n{"i": 1}\n')
    assert has_lines(path)
    log = opened(path, 1)
    log.append({"i": 2})
    assert said(path) == [{"i": 0}, {"i": 1}, {"i": 2}]
    if isinstance(path, RemotePath):
        assert path.read_bytes() == b'{"i": 0}\n{"i": 1}\n'


def test_a_damaged_line_is_left_out_with_a_word(
    path: Place, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(path, Path):
        pytest.skip("see test_damage.py")
    for i in range(4):
        append_line(path, {"i": i})
    line_path(path, 2).write_bytes(b"\xff\n\xfe")
    line_path(path, 3).write_bytes(b"")
    (path.with_suffix(".lines") / "notes.txt").write_bytes(b"?")
    assert read_lines(path) == [{"i": 0}, {"i": 3}]
    assert "2 of 4 lines cannot be read (the first is line 2)" in caplog.text
    append_line(path, {"i": 4})
    assert read_lines(path)[-1] == {"i": 4}


def test_the_same_line_by_another_writer_is_none_of_ours(path: Place) -> None:
    one, other = opened(path, 1), fenced_log(path)
    one.append({"i": 0})
    with pytest.raises(ReplacedError):
        other.append({"i": 0})
    assert said(path) == [{"i": 0}]


def test_a_line_costs_as_many_bytes_whatever_came_before(s3: S3Server, tmp_path: Path) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/journal.jsonl"))
    for _ in range(20):
        append_line(path, {"event": "rung", "x": 1})
    sizes = {line_path(path, i).size() for i in range(1, 21)}
    assert sizes == {len(line_path(path, 1).read_bytes())}
    assert json.loads(line_path(path, 20).read_bytes())["line"] == {"event": "rung", "x": 1}
