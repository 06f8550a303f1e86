"""Images, store and results in an object store, runs at a tracking server, and each of these away
for a while in mid-sweep: nothing waits for the server, nothing is lost.

The options are typed in another order than those of the sweep that it is compared with.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import timm
import torch
from mlflow.tracking import MlflowClient

from tests.end_to_end.sweeping import (
    ANOTHER_ORDER,
    PLANTED,
    ROOT,
    board,
    command,
    decisions,
    environment,
    files_with,
)
from tests.mlflow_server import Server
from tests.storing import BUCKET, S3Server
from tests.waiting import HANG_S, wait_until
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines
from trainables.storage.object_store import RemotePath, remote_path

pytestmark = pytest.mark.slow
AWAY_S = 6.0
PREFIX = "sweeps/first"


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What the sweep has left here and there."""

    out: Path
    copy: Path  # of all that is in the object store
    server: Server
    said: str


@pytest.fixture(scope="module")
def elsewhere(
    data: Path, s3_of_session: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    server = Server(folder / "server")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3_of_session.environment.items():
                patch.setenv(name, value)
            said = _sweep(data, folder, s3_of_session, server)
            _download(folder / "copy")
        yield Elsewhere(out=folder / "out", copy=folder / "copy", server=server, said=said)
    finally:
        server.kill()


def _sweep(data: Path, folder: Path, s3: S3Server, server: Server) -> str:
    """Run it to its end, through both outages; what it said."""
    for file in data.rglob("*.png"):
        remote_path(s3.uri(f"images/{file.relative_to(data)}")).upload(file)
    # The password in the server's address is none of what is kept.
    uri = server.uri.replace("://", f"://someone:{PLANTED}@")
    options = ("--storage", s3.uri(PREFIX), "--tracking-uri", uri, *ANOTHER_ORDER)
    argv = command(data, folder / "out", *options)
    argv[argv.index(str(data))] = s3.uri("images")
    argv[argv.index("--cache-dir") + 1] = str(folder / "cache")
    store, log = Store(remote_path(s3.uri(f"{PREFIX}/store"))), folder / "log"
    with log.open("w") as sink:
        driver = subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=sink, stderr=sink)
    _await(driver, log, lambda: _rungs(store) > 0)
    s3.kill()
    time.sleep(AWAY_S)
    s3.start()
    _await(driver, log, lambda: _rungs(store) > 1)
    server.kill()
    time.sleep(AWAY_S)
    server.start()
    assert driver.wait(HANG_S) == 0, log.read_text()
    return log.read_text()


def _await(driver: subprocess.Popen[bytes], log: Path, moment: Callable[[], bool]) -> None:
    try:
        wait_until(moment, process=driver, every_s=0.2)
    except AssertionError as error:
        raise AssertionError(log.read_text()) from error


def _rungs(store: Store[RemotePath]) -> int:
    """How many trunks have been scored at a rung."""
    return sum(line["event"] == "rung" for line in read_lines(store.journal))


def _download(folder: Path) -> None:
    """As anyone would who knows nothing of this project."""
    client = boto3.Session().client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{PREFIX}/")
    for found in (found for page in pages for found in page["Contents"]):
        path = folder / found["Key"].removeprefix(f"{PREFIX}/")
        if found["Size"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, found["Key"], str(path))


def test_the_results_are_those_of_the_sweep_that_nothing_disturbed(
    elsewhere: Elsewhere, undisturbed: Path
) -> None:
    """To the last digit, whatever was away, and in whichever order options are typed."""
    assert "Traceback" not in elsewhere.said
    assert board(elsewhere.out) == board(undisturbed)
    made = decisions(undisturbed / "store")
    assert made and decisions(elsewhere.copy / "store") == made
    for file in (undisturbed / "model").iterdir():
        if file.is_file() and file.name != "README.md":  # the store's has links that open
            assert (elsewhere.copy / "model" / file.name).read_bytes() == file.read_bytes()


def test_all_of_it_lives_in_the_object_store(elsewhere: Elsewhere) -> None:
    assert not (elsewhere.out / "store").exists()
    model = timm.create_model(f"local-dir:{elsewhere.copy / 'model'}", pretrained=True).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 4)


def test_mlflow_lacks_nothing(elsewhere: Elsewhere, undisturbed: Path) -> None:
    said = elsewhere.said
    assert said.count("MLflow does not answer") == said.count("MLflow is back") == 1, said
    assert _points(elsewhere.server.uri) == _points(f"sqlite:///{undisturbed}/mlflow.db")


def _points(uri: str) -> dict[tuple[str, str], Any]:
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


def test_the_servers_password_is_kept_nowhere(elsewhere: Elsewhere) -> None:
    assert PLANTED not in elsewhere.said
    assert not files_with(PLANTED, elsewhere.out, elsewhere.copy, elsewhere.server.folder)
