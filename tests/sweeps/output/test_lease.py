"""The lease in an object store: one driver at a time, and takeover from one that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.output import lease
from tests.storing import S3Server
from trainables.errors import UserError
from trainables.storage.files import read_json, write_json
from trainables.storage.object_store import RemotePath, remote_path


def ignored(_: str) -> None:
    """Takes lines that play no part."""


def test_a_second_driver_is_refused_while_the_first_lives(s3: S3Server, tmp_path: Path) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/driver.json"))
    with (
        lease.held(path, ignored, beat_s=0.1, dead_s=2),
        pytest.raises(UserError, match="in use by another running sweep"),
        lease.held(path, ignored, beat_s=0.1, dead_s=2),
    ):
        pass
    assert not path.exists()
    with lease.held(path, ignored, beat_s=0.1, dead_s=2):  # A clean end leaves nothing to wait for.
        assert path.exists()


def test_a_killed_drivers_lease_is_taken_over(s3: S3Server, tmp_path: Path) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/driver.json"))
    left = {"owner": "gone", "host": "elsewhere", "boot": "1", "pid": 1, "count": 7}
    write_json(path, left)
    lines: list[str] = []
    with lease.held(path, lines.append, beat_s=0.1, dead_s=0.5):
        assert (read_json(path) or {})["owner"] != "gone"
    write_json(path, left | lease._machine() | {"pid": 2**22 + 1})  # This machine's, and dead.
    with lease.held(path, lines.append, beat_s=0.1, dead_s=60):
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
        lease.held(path, ignored),
    ):
        pytest.fail("The block ran.")
    assert (read_json(path) or {})["count"] == 1
