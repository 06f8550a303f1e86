"""The same script as a job on a Ray head, on loopback, and as a command: stopped or killed in the
middle, the same again ends as if nothing had happened.

What it ends with is compared with another run of the same spec, to the last digit.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.end_to_end.rays import Head, private_head
from tests.end_to_end.sweeping import (
    ROOT,
    board,
    command,
    environment,
    epochs_trained,
    model_files,
    runs_of,
)
from tests.waiting import HANG_S, wait_until
from trainables.storage.files import read_lines, read_state

pytestmark = pytest.mark.slow
LINE = r"trunk lite0 at \d+ px, lr \S+: epoch \d, val top-1 .* left"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with private_head({"CPU": 2}) as started:
        yield started


def test_stopped_and_killed_again_and_again_and_continued(
    head: Head, data: Path, undisturbed: Path
) -> None:
    """Ctrl-C, a kill, and SIGTERM (``ray job stop``, a spot machine that goes)."""
    out = data.parent / "disturbed"
    interrupted = _start_and_send(data, out, _first_epoch, signal.SIGINT)
    assert interrupted == 130
    _check_stopped(out)
    assert _start_and_send(data, out, _third_trunk, signal.SIGKILL) == -signal.SIGKILL
    said = _submit_and_stop(head, data, out, _second_cell)
    assert "stopped; the same command continues" in said and "Traceback" not in said, said
    assert re.search(LINE, said), said
    _check_stopped(out)
    done = head.submit(command(data, out)[1:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"cell lite0 \d+ -> \d+ px, crop [\d.]+: val top-1", done.stdout)
    assert "chosen   lite0" in done.stdout and "report   " in done.stdout

    _check_readable(out / "store")
    assert board(out) == board(undisturbed)
    assert model_files(out) == model_files(undisturbed)
    runs = runs_of(out)
    keys = [run.data.tags["key"] for run in runs]
    assert len(keys) == len(set(keys)) == 1 + 5 + 12  # with the untouched net
    assert {run.info.status for run in runs} == {"FINISHED"}
    counts = epochs_trained(out)
    assert counts.keys() == epochs_trained(undisturbed).keys()
    redone = sum(times - 1 for trunk in counts.values() for times in trunk.values())
    assert redone <= 2, "at most the epochs that were cut short are trained again"


def _first_epoch(out: Path) -> bool:
    """The first trunk is within its training."""
    return any((out / "store").glob("trunks/*/state.pt"))


def _third_trunk(out: Path) -> bool:
    """The journal holds decisions, and a third trunk is being trained."""
    return len(list((out / "store").glob("trunks/*/work.jsonl"))) >= 3


def _second_cell(out: Path) -> bool:
    """Phase 2 is under way."""
    return any((out / "store").glob("cells/*/rows.json"))


def _start_and_send(
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


def _submit_and_stop(head: Head, data: Path, out: Path, moment: Callable[[Path], bool]) -> str:
    """What the job said."""
    submitted = head.submit(command(data, out)[1:], "--no-wait", "--submission-id", "stopped")
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: moment(out))
    assert head.stop("stopped") == "STOPPED"
    return head.job("logs", "stopped").stdout


def _check_stopped(out: Path) -> None:
    """Nothing is half written, here or in MLflow."""
    _check_readable(out / "store")
    assert "RUNNING" not in {run.info.status for run in runs_of(out)}


def _check_readable(store: Path) -> None:
    for path in store.rglob("*.json"):
        json.loads(path.read_text())
    for path in store.rglob("*.jsonl"):
        assert len(read_lines(path)) == len(path.read_text().splitlines())
    for path in store.rglob("*.safetensors"):
        assert load_file(path)
    for path in store.rglob("state.pt"):
        assert read_state(path)


def test_a_job_fails_when_the_sweep_does(head: Head, data: Path) -> None:
    """Whatever the script's own code: a wrong option, and a folder that the job would lose."""
    wrong = {
        "--variants b9": command(data, data.parent / "bad", "--variants", "b9"),
        "give an absolute path": command(data, Path("relative")),
    }
    with ThreadPoolExecutor() as pool:
        jobs = pool.map(lambda argv: head.submit(argv[1:]), wrong.values())
        for words, failed in zip(wrong, jobs, strict=True):
            assert failed.returncode == 1
            assert words in failed.stdout
