"""A tracking server that is killed in mid-sweep and comes back: nothing waits for it, nothing is
lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.end_to_end.sweeping import PLANTED, ROOT, command, environment, files_with
from tests.ports import free_ports
from tests.waiting import HANG_S, wait_until

pytestmark = pytest.mark.slow
AWAY_S = 6.0


class Server:
    """An MLflow server on loopback that can be killed and started again."""

    def __init__(self, folder: Path):
        (self.port,) = free_ports(1)
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        folder.mkdir()
        self.start()

    def start(self) -> None:
        database, artifacts = f"sqlite:///{self.folder}/mlflow.db", str(self.folder / "artifacts")
        options = {
            "--backend-store-uri": database,
            "--artifacts-destination": artifacts,
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *(w for o in options.items() for w in o)],
            cwd=self.folder,
            env=environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, process=self._process, every_s=0.2, what="the server's answer")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=1)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def points(uri: str) -> dict[tuple[str, str], Any]:
    """Every point of every run but what a clock or a machine measured, and parameters and ends."""
    client = MlflowClient(tracking_uri=uri)
    found: dict[tuple[str, str], Any] = {}
    experiments = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(experiments, max_results=1000):
        key = run.data.tags["key"]
        assert (key, "status") not in found, "a run was made twice"
        found[key, "status"] = run.info.status
        found[key, "params"] = dict(run.data.params)
        clocked = ("system/", "seconds", "work/seconds", "work/latency_ms")
        for name in run.data.metrics:
            if not name.startswith(clocked):
                history = client.get_metric_history(run.info.run_id, name)
                found[key, name] = sorted((m.step, m.value) for m in history)
    models = client.search_logged_models(experiments)
    found["", "models"] = sorted((m.tags["key"], len(m.metrics or ())) for m in models)
    return found


def test_nothing_is_lost(data: Path, undisturbed: Path) -> None:
    """The password in the server's address is none of what is kept."""
    out, server = data.parent / "outage", Server(data.parent / "server")
    uri = server.uri.replace("://", f"://someone:{PLANTED}@")
    try:
        driver = subprocess.Popen(
            command(data, out, "--tracking-uri", uri),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        trunks = out / "store" / "trunks"
        wait_until(lambda: len(list(trunks.glob("*/work.jsonl"))) >= 2, process=driver)
        server.kill()
        time.sleep(AWAY_S)
        server.start()
        said, _ = driver.communicate(timeout=HANG_S)
        assert driver.returncode == 0, said
        assert said.count("MLflow does not answer") == said.count("MLflow is back") == 1, said
        assert points(server.uri) == points(f"sqlite:///{undisturbed}/mlflow.db")
        assert PLANTED not in said and not files_with(PLANTED, out, server.folder)
    finally:
        server.kill()
