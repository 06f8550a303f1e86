"""The lease in an object store: one driver at a time, and takeover from one that was killed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sweeps.output import lease
from sweeps.output.driver import Driver, driving
from tests.storing import S3Server
from tests.waiting import wait_until
from trainables.errors import ReplacedError, UserError
from trainables.storage.files import read_json, read_lines, write_json
from trainables.storage.object_store import RemotePath, remote_path

GONE = {"owner": "gone", "host": "elsewhere", "boot": "1", "pid": 1, "count": 7}


def ignored(_: str) -> None:
    """Takes lines that play no part."""


@pytest.fixture(params=["folder", "s3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> RemotePath:
    if request.param == "folder":
        return RemotePath(root="file:///", key=str(tmp_path / "driver.json").strip("/"))
    server: S3Server = request.getfixturevalue("s3")
    return remote_path(server.uri(f"tests/{tmp_path.name}/driver.json"))


def test_a_second_driver_is_refused_while_the_first_lives(path: RemotePath) -> None:
    with (
        driving(path, ignored, beat_s=0.1, dead_s=3),
        pytest.raises(UserError, match="in use by another running sweep"),
        driving(path, ignored, beat_s=0.1, dead_s=3),
    ):
        pytest.fail("The block ran.")
    # A clean end leaves nothing to wait for.
    with driving(path, pytest.fail, beat_s=0.1, dead_s=60):
        assert not (read_json(path) or {}).get("ended")
    assert (read_json(path) or {})["ended"]


def test_a_killed_drivers_lease_is_taken_over(path: RemotePath) -> None:
    write_json(path, GONE)
    lines: list[str] = []
    with driving(path, lines.append, beat_s=0.1, dead_s=0.5):
        assert (read_json(path) or {})["owner"] != "gone"
    write_json(path, GONE | lease._machine() | {"pid": 2**22 + 1})  # This machine's, and dead.
    with driving(path, lines.append, beat_s=0.1, dead_s=60):
        pass
    assert len(lines) == 1 and "held by process 1 on elsewhere: waiting up to" in lines[0]


def test_a_lease_that_is_renewed_while_it_is_watched_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: RemotePath = remote_path(f"{tmp_path.as_uri()}/driver.json")
    other = {"owner": "other", "host": "elsewhere", "boot": "1", "pid": 7}
    write_json(path, other | {"count": 0})
    monkeypatch.setattr("time.sleep", lambda _: write_json(path, other | {"count": 1}))
    with (
        pytest.raises(UserError, match=r"another running sweep \(process 7 on elsewhere\)"),
        driving(path, ignored),
    ):
        pytest.fail("The block ran.")
    assert (read_json(path) or {})["count"] == 1


def test_what_is_no_lease_is_nobodys(path: RemotePath) -> None:
    path.write_bytes(b"\xff[")
    with driving(path, ignored, beat_s=0.1, dead_s=0.3):
        assert (read_json(path) or {})["epoch"] == 1


@pytest.mark.parametrize("left", [None, GONE])
def test_of_two_that_begin_at_once_one_goes_on(path: RemotePath, left: object) -> None:
    rounds = 12 if path.scheme == "file" else 4
    dead_s = 2.0 if left else 60.0  # what is waited for where a driver of elsewhere left its lease
    rounds = rounds // 4 if left else rounds
    for number in range(rounds):
        place = path.parent / f"{number}-{path.name}"
        if left:
            write_json(place, left)
        gate, refused = threading.Barrier(2), threading.Event()

        def begin(_: int, place=place, gate=gate, refused=refused) -> lease.Lease | str:
            gate.wait()
            try:
                held = lease.take(place, ignored, beat_s=0.05, dead_s=dead_s)
                while not refused.wait(0.02):  # One that comes later waits for a sign of life.
                    held.renew()
            except UserError as error:
                return str(error)
            finally:
                refused.set()
            return held

        with ThreadPoolExecutor(2) as pool:
            held = list(pool.map(begin, range(2)))
        (winner,) = [one for one in held if isinstance(one, lease.Lease)]
        (refusal,) = [one for one in held if isinstance(one, str)]
        assert "is in use by another running sweep" in refusal
        winner.renew()


def test_a_driver_whose_lease_was_taken_over_finds_out_before_it_writes(
    path: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = path.parent / "journal.jsonl"
    first = lease.take(path, ignored, beat_s=0.1, dead_s=0.6)
    old = Driver(first)
    old.open_journal(journal).append({"i": 0})
    old.check()
    time.sleep(0.4)  # it stands still: the lease may have been taken over, and was not
    old.check()
    second = lease.take(path, ignored, beat_s=0.1, dead_s=0.6)
    assert second.epoch == first.epoch + 1
    new = Driver(second)
    new.open_journal(journal)
    with pytest.raises(ReplacedError, match=r"was continued by another sweep \(process"):
        old.open_journal(journal).append({"i": "late"})
    with pytest.raises(ReplacedError, match=r"taken over by another sweep \(process"):
        old.check()
    assert not old.may_write() and new.may_write()
    before = path.read_bytes()
    first.give_back()  # is not its own any longer
    assert path.read_bytes() == before
    new.open_journal(journal).append({"i": 1})
    assert [line for line in read_lines(journal) if "i" in line] == [{"i": 0}, {"i": 1}]


def test_a_driver_that_stood_still_before_it_opened_the_journal_stops_alone(
    path: RemotePath,
) -> None:
    journal = path.parent / "journal.jsonl"
    old = Driver(lease.take(path, ignored, beat_s=0.1, dead_s=0.3))
    new = Driver(lease.take(path, ignored, beat_s=0.1, dead_s=0.3))
    new.open_journal(journal)
    with pytest.raises(ReplacedError, match="taken over by another sweep"):
        old.open_journal(journal)
    new.open_journal(journal).append({"i": 0})
    new.check()


def test_the_block_ends_where_another_driver_has_taken_over(
    path: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it waits for something else than the store."""
    ended = threading.Event()
    monkeypatch.setattr("_thread.interrupt_main", lambda _signal: ended.set())

    def wait() -> None:
        with driving(path, ignored, beat_s=0.1, dead_s=60):
            write_json(path, GONE)
            wait_until(ended.is_set)
            raise KeyboardInterrupt  # as the driver's handler of the signal does

    with pytest.raises(ReplacedError, match=r"by another sweep \(process 1 on elsewhere"):
        wait()
    assert read_json(path) == GONE


def test_an_interrupt_by_the_user_stays_one(path: RemotePath) -> None:
    with pytest.raises(KeyboardInterrupt), driving(path, ignored, beat_s=0.1, dead_s=60):
        raise KeyboardInterrupt
    assert (read_json(path) or {})["ended"]
