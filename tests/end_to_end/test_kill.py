"""Kill the driver in the middle; the same command again ends as if nothing had happened.

What it ends with is compared with another run of the same spec, to the last digit.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.sweeping import (
    ROOT,
    board,
    command,
    environment,
    epochs_trained,
    runs_of,
    sweep,
)

pytestmark = pytest.mark.slow


def _first_epoch(out: Path) -> bool:
    """The first trunk is within its training."""
    return any((out / "store").glob("trunks/*/state.pt"))


def _third_trunk(out: Path) -> bool:
    """The journal holds decisions, and a third trunk is being trained."""
    return len(list((out / "store").glob("trunks/*/work.jsonl"))) >= 3


def _second_cell(out: Path) -> bool:
    """Phase 2 is under way."""
    return any((out / "store").glob("cells/*/rows.json"))


def _start_and_kill(
    data: Path, out: Path, moment: Callable[[Path], bool], signal_number: int
) -> int:
    driver = subprocess.Popen(
        command(data, out),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not moment(out):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.02)
    driver.send_signal(signal_number)
    return driver.wait(timeout=120)


@pytest.mark.parametrize("moment", [_first_epoch, _third_trunk, _second_cell])
def test_killed_and_continued(
    data: Path, undisturbed: Path, moment: Callable[[Path], bool]
) -> None:
    out = data.parent / moment.__name__
    assert _start_and_kill(data, out, moment, signal.SIGKILL) == -signal.SIGKILL
    done = sweep(data, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert board(out) == board(undisturbed)
    counts = epochs_trained(out)
    assert counts.keys() == epochs_trained(undisturbed).keys()
    redone = sum(times - 1 for trunk in counts.values() for times in trunk.values())
    assert redone <= 1, "at most the epoch that was cut short is trained again"
    runs = runs_of(out)
    keys = [run.data.tags["key"] for run in runs]
    assert len(keys) == len(set(keys)) == 1 + 4 + 6
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_ctrl_c_stops_cleanly(data: Path) -> None:
    out = data.parent / "interrupted"
    assert _start_and_kill(data, out, _first_epoch, signal.SIGINT) == 130
    assert "RUNNING" not in {run.info.status for run in runs_of(out)}


def test_sigterm_stops_cleanly_and_is_continued(data: Path, undisturbed: Path) -> None:
    """As ``ray job stop`` and a lost spot node send it."""
    out = data.parent / "terminated"
    assert _start_and_kill(data, out, _third_trunk, signal.SIGTERM) == 130
    assert "RUNNING" not in {run.info.status for run in runs_of(out)}
    assert sweep(data, out).returncode == 0
    assert board(out) == board(undisturbed)
    assert {run.info.status for run in runs_of(out)} == {"FINISHED"}
