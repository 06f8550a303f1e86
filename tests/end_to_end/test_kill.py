"""Kill the driver in the middle; the same command again ends as if nothing had happened.

What it ends with is compared with another run of the same spec, to the last digit.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.sweeping import (
    ROOT,
    board,
    command,
    environment,
    epochs_trained,
    model_files,
    runs_of,
    sweep,
)
from tests.waiting import HANG_S, wait_until

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


def _third_cell(out: Path) -> bool:
    """And goes on."""
    return len(list((out / "store").glob("cells/*/rows.json"))) >= 3


def _start_and_kill(
    data: Path, out: Path, moment: Callable[[Path], bool], signal_number: int
) -> int:
    driver = subprocess.Popen(
        command(data, out),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell's background jobs, and all that they start, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: moment(out), process=driver, every_s=0.02)
    driver.send_signal(signal_number)
    return driver.wait(HANG_S)


def _still_running(out: Path) -> set[str]:
    return {run.data.tags["key"] for run in runs_of(out) if run.info.status == "RUNNING"}


def _check_whole(out: Path, undisturbed: Path) -> None:
    assert board(out) == board(undisturbed)
    runs = runs_of(out)
    keys = [run.data.tags["key"] for run in runs]
    assert len(keys) == len(set(keys)) == 1 + 5 + 12  # with the untouched net
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert model_files(out) == model_files(undisturbed)


def test_stopped_and_killed_again_and_again_and_continued(data: Path, undisturbed: Path) -> None:
    """Ctrl-C, SIGTERM (``ray job stop``, a spot machine that goes), and two kills."""
    out = data.parent / "killed"
    for moment, signal_number in (
        (_first_epoch, signal.SIGINT),
        (_third_trunk, signal.SIGKILL),
        (_second_cell, signal.SIGTERM),
        (_third_cell, signal.SIGKILL),
    ):
        clean = signal_number in (signal.SIGINT, signal.SIGTERM)
        expected = 130 if clean else -signal_number
        assert _start_and_kill(data, out, moment, signal_number) == expected
        assert not (clean and _still_running(out))
    done = sweep(data, out)
    assert done.returncode == 0, done.stdout + done.stderr
    _check_whole(out, undisturbed)
    counts = epochs_trained(out)
    assert counts.keys() == epochs_trained(undisturbed).keys()
    redone = sum(times - 1 for trunk in counts.values() for times in trunk.values())
    assert redone <= 2, "at most the epochs that were cut short are trained again"
