"""A pretrained net is fixed as it is, behind a proxy that lets no large file through to MLflow:
results come first, MLflow gets it later."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from tests.end_to_end.sweeping import SCRIPT, run_command
from tests.mlflow_server import Proxy, proxied_server

pytestmark = pytest.mark.slow
# No epochs, its own classifier, and a ladder of test resolutions that the plan explains.
AS_IT_IS = (
    *("--variants", "lite0", "--epochs", "0", "--train-res", "48", "--test-res", "auto"),
    *("--test-crop-pct", "1.0", "--arms", "none", "fix", "--head-epochs", "3"),
    *("--concurrency", "1"),
)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The sweep after its first command."""

    argv: list[str]
    out: Path
    weights: Path
    proxy: Proxy
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def refused(
    data: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Refused]:
    folder = tmp_path_factory.mktemp("refused")
    out, weights = folder / "out", folder / "weights"
    weights.mkdir()
    shutil.copy(undisturbed / "model" / "model.safetensors", weights / "lite0.safetensors")
    with proxied_server(folder / "server") as proxy:
        proxy.largest = 1_000_000  # bytes: as nginx, unless it is told otherwise
        folders = {"data": data, "out": out, "cache-dir": data.parent / "cache", "weights": weights}
        options = [word for name, path in folders.items() for word in (f"--{name}", str(path))]
        argv = [sys.executable, SCRIPT, *options, *AS_IT_IS, "--tracking-uri", proxy.uri]
        done = run_command(argv)
        yield Refused(argv=argv, out=out, weights=weights, proxy=proxy, done=done)


def test_a_pretrained_net_is_fixed_as_it_is(refused: Refused) -> None:
    assert refused.done.returncode == 0, refused.done.stdout + refused.done.stderr
    assert "where objects look as large as in training" in refused.done.stdout
    (folder,) = (refused.out / "store" / "trunks").iterdir()
    kept = load_file(folder / "trunk.safetensors")
    given = load_file(refused.weights / "lite0.safetensors")
    assert all(kept[name].equal(tensor) for name, tensor in given.items())
    rows = pq.read_table(refused.out / "leaderboard.parquet").to_pylist()
    tests = sorted({r["test_res"] for r in rows})
    assert len(tests) == 4 and tests[0] == 48 and {r["trunk_epochs"] for r in rows} == {0}


def test_the_results_come_first(refused: Refused) -> None:
    out, proxy, said = refused.out, refused.proxy, refused.done.stdout
    assert refused.done.returncode == 0, said
    assert "MLflow refused log_model_artifact (413 Request Entity Too Large)" in said
    assert "warning: MLflow lacks part of this sweep, as it refused log_model" in said
    assert f"all results are in {out}, and the same command again tries" in said
    assert {"choice.json", "report.html", "model"} <= {path.name for path in out.iterdir()}
    client = MlflowClient(tracking_uri=proxy.uri)
    experiment = client.get_experiment_by_name("fixres-sweeps")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * (1 + 1 + 4)
    assert all("val/top1" in run.data.metrics for run in runs)
    assert not client.search_registered_models()

    proxy.clear()
    again = run_command(refused.argv)
    assert again.returncode == 0 and "warning" not in again.stdout, again.stdout
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.tags["key"].split()[0] for model in models} == {"sweep", "trunk", "cell"}
    for model in models:
        assert model.status.name == "READY"
        assert client.list_logged_model_artifacts(model.model_id)
    (registered,) = client.search_registered_models()
    assert registered.aliases == {"champion": "1"}
    assert not (out / "store" / "tracking.json").exists()
