"""A proxy that lets no large file through to MLflow: results come first, MLflow gets it later."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.end_to_end.sweeping import ONE_CELL, SCRIPT, run_command
from tests.mlflow_server import proxied_server

pytestmark = pytest.mark.slow
SMALL = (
    *("--variants", "lite0", "--train-res", "32", "--samples", "1", "--epochs", "1"),
    *(*ONE_CELL, "--head-epochs", "3", "--concurrency", "1"),
)


def test_the_results_come_first(data: Path) -> None:
    out, cache = data.parent / "refused", str(data.parent / "cache")
    with proxied_server(data.parent / "refusing") as proxy:
        options = ("--data", str(data), "--out", str(out), "--cache-dir", cache)
        argv = [sys.executable, SCRIPT, *options, *SMALL, "--tracking-uri", proxy.uri]
        proxy.largest = 1_000_000  # bytes: as nginx, unless it is told otherwise
        done = run_command(argv)
        assert done.returncode == 0, done.stdout
        assert "MLflow refused log_model_artifact (413 Request Entity Too Large)" in done.stdout
        assert "warning: MLflow lacks part of this sweep, as it refused log_model" in done.stdout
        assert f"all results are in {out}, and the same command again tries" in done.stdout
        assert {"choice.json", "report.html", "model"} <= {path.name for path in out.iterdir()}
        client = MlflowClient(tracking_uri=proxy.uri)
        experiment = client.get_experiment_by_name("fixres-sweeps")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert [run.info.status for run in runs] == ["FINISHED"] * 3
        assert all("val/top1" in run.data.metrics for run in runs)
        assert not client.search_registered_models()

        proxy.clear()
        again = run_command(argv)
        assert again.returncode == 0 and "warning" not in again.stdout, again.stdout
        models = client.search_logged_models([experiment.experiment_id])
        assert {model.tags["key"].split()[0] for model in models} == {"sweep", "trunk", "cell"}
        for model in models:
            assert model.status.name == "READY"
            assert client.list_logged_model_artifacts(model.model_id)
        (registered,) = client.search_registered_models()
        assert registered.aliases == {"champion": "1"}
        assert not (out / "store" / "tracking.json").exists()
