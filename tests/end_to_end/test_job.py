"""The same script as a job on a Ray head, on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.sweeping import ROOT, command, environment, runs_of

pytestmark = pytest.mark.slow
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]

    def submit(self, *entry: str) -> subprocess.CompletedProcess[str]:
        job = [RAY, "job", "submit", "--address", self.address, "--working-dir", "."]
        job += ["--runtime-env", "clusters/runtime_env.yaml", "--", "python", *entry]
        return subprocess.run(
            job, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=400
        )


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray of its own: other Rays of the machine are neither joined nor stopped."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths must be short
    gcs, dashboard, client = _free_ports(3)
    own = environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "min-worker-port": "0",
        "max-worker-port": "0",
        "dashboard-agent-listen-port": "0",
        "temp-dir": str(folder),
        "num-cpus": "2",
    }
    start = [RAY, "start", "--head", *(f"--{name}={value}" for name, value in options.items())]
    try:
        subprocess.run(start, env=own, check=True, capture_output=True, timeout=120)
        yield Head(f"http://127.0.0.1:{dashboard}", own)
    finally:
        _kill_all(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _kill_all(mark: str) -> None:
    """Every process whose command line names ``mark``."""
    for _ in range(2):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "cmdline").read_text():
                        os.kill(int(entry.name), signal.SIGKILL)
                except OSError:
                    continue  # it has gone already
        time.sleep(0.5)


def test_a_submitted_job_runs_the_sweep(head: Head, data: Path) -> None:
    out = data.parent / "job"
    done = head.submit(*command(data, out)[1:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "chosen" in done.stdout and "left" in done.stdout
    assert (out / "model" / "model.safetensors").exists()
    assert {run.info.status for run in runs_of(out)} == {"FINISHED"}


def test_a_job_fails_when_the_sweep_does(head: Head, data: Path) -> None:
    failed = head.submit(*command(data, data.parent / "bad", "--variants", "b9")[1:])
    assert failed.returncode == 1  # whatever the script's own code is
    assert "--variants b9" in failed.stdout


def test_a_folder_that_the_job_would_lose_is_refused(head: Head, data: Path) -> None:
    failed = head.submit(*command(data, Path("relative"))[1:])
    assert failed.returncode == 1
    assert "give an absolute path" in failed.stdout
