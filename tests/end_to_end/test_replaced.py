"""Drivers that stand still (SIGSTOP) longer than their lease, are replaced, and wake up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.standing_driver import StandingDriver
from tests.storing import S3Server
from tests.waiting import wait_until
from trainables.storage.files import read_lines
from trainables.storage.object_store import RemotePath, remote_path

pytestmark = pytest.mark.slow


def await_standstill(driver: StandingDriver) -> None:
    def stands_still() -> bool:
        return psutil.Process(driver.pid).status() == psutil.STATUS_STOPPED

    wait_until(stands_still, process=driver)


def contents(prefix: RemotePath) -> dict[str, bytes]:
    return {key: (prefix / key).read_bytes() for key in prefix.walk()}


@pytest.fixture
def first(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> Iterator[StandingDriver]:
    uri = s3.uri(f"tests/{tmp_path.name}")
    driver = StandingDriver(tmp_path / "a" / "out", uri, request.param)
    yield driver
    driver.kill()


@pytest.mark.parametrize("first", ["journal", "event", "results"], indirect=True)
def test_a_driver_that_was_replaced_while_it_stood_still_writes_nothing_more(
    first: StandingDriver, s3: S3Server, tmp_path: Path
) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    prefix = remote_path(uri)
    await_standstill(first)
    code, said = StandingDriver(tmp_path / "b" / "out", uri).wait()
    assert code == 0, said
    before = contents(prefix)
    assert {"choice.json", "leaderboard.parquet", "model/model.safetensors"} <= before.keys()

    first.wake()
    code, said = first.wait()
    assert code == 2, said
    assert "by another sweep (process" in said and "Traceback" not in said
    assert "this one has stopped" in said
    assert contents(prefix) == before
    epochs = [
        line["epoch"]
        for line in read_lines(prefix / "store" / "journal.jsonl")
        if line["event"] == "open"
    ]
    assert epochs == [1, 2]


@pytest.mark.parametrize("first", ["event"], indirect=True)
def test_the_same_command_continues_after_it_was_replaced_by_one_that_died(
    first: StandingDriver, s3: S3Server, tmp_path: Path
) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    await_standstill(first)
    second = StandingDriver(tmp_path / "b" / "out", uri, "results")
    await_standstill(second)
    second.kill()
    first.wake()
    assert first.wait()[0] == 2
    code, said = StandingDriver(tmp_path / "a" / "out", uri).wait()
    assert code == 0, said
