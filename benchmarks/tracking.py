"""Time the writing of metrics to MLflow: one writer that batches against a call for each value.

    python benchmarks/tracking.py

The trunks of a sweep report epoch by epoch to an MLflow server on loopback (sqlite, one worker).
"Told" is the time that the sweep itself waits until the outbox has all values; the other times end
when MLflow has them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from sweeps.tracking.delivery.answers import judge
from sweeps.tracking.delivery.outbox import Outbox
from sweeps.tracking.runs import RunStore

TRUNKS, EPOCHS = 16, 20
NAMES = ("lr", "seconds", "train/top1", "train/loss", "val/top1", "val/top1_at_96")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait()


def points(epoch: int) -> list[Metric]:
    return [Metric(name, 1 / epoch, 1000 * epoch, epoch) for name in NAMES]


def one_by_one(client: MlflowClient, ids: list[str]) -> float:
    began = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        for run_id in ids:
            for metric in points(epoch):
                client.log_metric(run_id, metric.key, metric.value, metric.timestamp, metric.step)
    return time.perf_counter() - began


def through_the_outbox(runs: RunStore, keys: list[str]) -> tuple[float, float]:
    box = Outbox(
        judge=judge,
        recover=runs.reload,
        idle_jobs=lambda: [(key, partial(runs.log_metrics, key)) for key in runs.deferred_keys],
        notify=print,
        describe=str,
        on_given_up=print,
    )
    began = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        for key in keys:
            box.put(key, partial(runs.defer_metrics, key, points(epoch)))
    queued_s = time.perf_counter() - began
    box.flush(60)
    return queued_s, time.perf_counter() - began


def main() -> None:
    count = TRUNKS * EPOCHS * len(NAMES)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as uri:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.create_experiment("benchmark")
        runs = RunStore(client, experiment, "s")
        keys = ["sweep", *(f"trunk {i}" for i in range(TRUNKS))]
        for key in keys:
            runs.ensure(key, key, {}, {}, start_ms=0)
        apart = one_by_one(client, [runs.run_id(key) for key in keys[1:]])
        queued_s, together = through_the_outbox(runs, keys[1:])
    print(f"{count} values of {TRUNKS} runs")
    print(f"a call each     {apart:6.1f} s, {count / apart:8.0f} values/s; the sweep waits as long")
    print(
        f"the outbox      {together:6.2f} s, {count / together:8.0f} values/s; "
        f"queued_s in {queued_s:.3f} s"
    )
    print(f"ratio           {apart / together:6.0f}")


if __name__ == "__main__":
    main()
