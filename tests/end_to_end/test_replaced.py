"""Drivers that stand still (SIGSTOP) longer than their lease, are replaced, and wake up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end import standing_driver
from tests.storing import S3Server
from tests.waiting import HANG_S, wait_until
from trainables.storage.files import read_lines
from trainables.storage.object_store import RemotePath, remote_path

pytestmark = pytest.mark.slow


def begin(out: Path, uri: str, before: str = "") -> subprocess.Popen[str]:
    out.parent.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", standing_driver.__name__, str(out), uri, before],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def stands_still(process: subprocess.Popen[str]) -> bool:
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def contents(prefix: RemotePath) -> dict[str, bytes]:
    return {key: (prefix / key).read_bytes() for key in prefix.walk()}


@pytest.fixture
def first(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> Iterator[object]:
    process = begin(tmp_path / "a" / "out", s3.uri(f"tests/{tmp_path.name}"), request.param)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("first", ["journal", "event", "results"], indirect=True)
def test_a_driver_that_was_replaced_while_it_stood_still_writes_nothing_more(
    first: subprocess.Popen[str], s3: S3Server, tmp_path: Path
) -> None:
    prefix = remote_path(s3.uri(f"tests/{tmp_path.name}"))
    wait_until(lambda: stands_still(first), process=first)
    second = begin(tmp_path / "b" / "out", s3.uri(f"tests/{tmp_path.name}"))
    said, errors = second.communicate(timeout=HANG_S)
    assert second.returncode == 0, said + errors
    before = contents(prefix)
    assert {"choice.json", "leaderboard.parquet", "model/model.safetensors"} <= before.keys()

    first.send_signal(signal.SIGCONT)
    said, errors = first.communicate(timeout=HANG_S)
    assert first.returncode == 2, said + errors
    assert "by another sweep (process" in errors and "Traceback" not in errors
    assert "this one has stopped" in errors
    assert contents(prefix) == before
    epochs = [
        line["epoch"]
        for line in read_lines(prefix / "store" / "journal.jsonl")
        if line["event"] == "open"
    ]
    assert epochs == [1, 2]


def test_the_same_command_continues_after_it_was_replaced_by_one_that_died(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    first = begin(tmp_path / "a" / "out", uri, "event")
    wait_until(lambda: stands_still(first), process=first)
    second = begin(tmp_path / "b" / "out", uri, "results")
    wait_until(lambda: stands_still(second), process=second)
    second.kill()
    second.communicate()
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=HANG_S)
    assert first.returncode == 2
    third = begin(tmp_path / "a" / "out", uri)
    said, errors = third.communicate(timeout=HANG_S)
    assert third.returncode == 0, said + errors
