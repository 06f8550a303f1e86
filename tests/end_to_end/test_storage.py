"""Images, store and results in an object store, which is away for a while in the middle."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import boto3
import pytest
import timm
import torch

from tests.end_to_end.sweeping import ROOT, board, command, environment
from tests.storing import BUCKET, S3Server
from tests.waiting import HANG_S
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines
from trainables.storage.object_store import remote_path

pytestmark = pytest.mark.slow
AWAY_S = 6.0


def test_all_of_a_sweep_lives_in_an_object_store(
    data: Path, undisturbed: Path, tmp_path: Path, s3: S3Server
) -> None:
    for file in data.rglob("*.png"):
        remote_path(s3.uri(f"images/{file.relative_to(data)}")).upload(file)
    argv = command(data, tmp_path / "out", "--storage", s3.uri("sweeps/first"))
    argv[argv.index(str(data))] = s3.uri("images")
    argv[argv.index("--cache-dir") + 1] = str(tmp_path / "cache")
    with (tmp_path / "log").open("w") as log:
        sweep = subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=log, stderr=log)
    store = Store(remote_path(s3.uri("sweeps/first/store")))
    while not any(line["event"] == "rung" for line in read_lines(store.journal)):
        assert sweep.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    s3.kill()
    time.sleep(AWAY_S)
    s3.start()
    assert sweep.wait(HANG_S) == 0, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()

    assert board(tmp_path / "out") == board(undisturbed)
    _download("sweeps/first/model/", tmp_path / "model")
    for file in (undisturbed / "model").iterdir():
        if file.is_file() and file.name != "README.md":  # the store's has links that open
            assert (tmp_path / "model" / file.name).read_bytes() == file.read_bytes()
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 4)
    assert not (tmp_path / "out" / "store").exists()


def _download(prefix: str, folder: Path) -> None:
    """As anyone would who knows nothing of this project."""
    client = boto3.Session().client("s3")
    folder.mkdir()
    for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
        name = found["Key"].removeprefix(prefix)
        if name and "/" not in name:
            client.download_file(BUCKET, found["Key"], str(folder / name))
