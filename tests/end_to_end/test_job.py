"""The same script as a job on a Ray head, on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.end_to_end.rays import Head, private_head
from tests.end_to_end.sweeping import ONE_CELL, command, epochs_trained, runs_of
from tests.waiting import wait_until
from trainables.storage.files import read_lines, read_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with private_head({"CPU": 2}) as started:
        yield started


def _check_whole(store: Path) -> None:
    """Whatever is there can be read, and nothing is half written."""
    for path in store.rglob("*.json"):
        json.loads(path.read_text())
    for path in store.rglob("*.jsonl"):
        assert len(read_lines(path)) == len(path.read_text().splitlines())
    for path in store.rglob("*.safetensors"):
        assert load_file(path)
    for path in store.rglob("state.pt"):
        assert read_state(path)


def test_a_job_that_is_stopped_is_continued_by_the_same_command(head: Head, data: Path) -> None:
    out = data.parent / "job"
    entry = command(data, out, *ONE_CELL, "--train-res", "32")[1:]
    submitted = head.submit(entry, "--no-wait", "--submission-id", "first")
    assert submitted.returncode == 0, submitted.stderr
    trunks = out / "store" / "trunks"
    wait_until(lambda: len(list(trunks.glob("*/work.jsonl"))) == 2)
    head.job("stop", "first")
    assert "Job 'first' was stopped" in head.job("status", "first").stdout
    said = head.job("logs", "first").stdout
    assert "stopped; the same command continues" in said and "Traceback" not in said, said
    assert re.search(r"trunk lite0 at 32 px, lr \S+: epoch \d, val top-1 .* left", said)
    assert "RUNNING" not in {run.info.status for run in runs_of(out)}
    _check_whole(out / "store")
    done = head.submit(entry)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "cell lite0 32 -> 32 px, crop 1.0: val top-1" in done.stdout
    assert "chosen   lite0" in done.stdout and "report   " in done.stdout
    _check_whole(out / "store")
    runs = runs_of(out)
    assert {run.info.status for run in runs} == {"FINISHED"}
    keys = [run.data.tags["key"] for run in runs]
    assert len(keys) == len(set(keys)) == 1 + 2 + 1  # the sweep, its trunks, the survivor's cell
    counts = epochs_trained(out)
    redone = sum(times - 1 for trunk in counts.values() for times in trunk.values())
    assert redone <= 1, "at most the epoch that was cut short is trained again"


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
