"""The tracking store: where it is by default, its experiment, and which errors may pass."""

from __future__ import annotations

import os
import shlex
import sqlite3
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.tracking.access.connection import (
    database_of,
    default_uri,
    open_experiment,
    quiet_client,
    set_request_environment,
)
from sweeps.tracking.delivery.answers import reason_of
from sweeps.tracking.ui_links import ui_command
from tests.sweeps.tracking.recorded_sweep import EXPERIMENT
from trainables.errors import UserError


def test_the_default_store_is_that_of_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(Path("/a/out")) == "sqlite:////a/out/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert default_uri(Path("/a/out")) == "http://tracker:5000"


@pytest.mark.parametrize("name", ["what?a", "a%20b", "50%", "a b#[c]é", "d'q&$"])
def test_the_default_database_lies_in_its_folder_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "sweeps" / name
    out.mkdir(parents=True)
    uri = default_uri(out)
    assert database_of(uri) == out / "mlflow.db"
    client = quiet_client(uri)
    experiment = open_experiment(client, uri, "one")
    assert experiment.artifact_location == (out / "mlartifacts").as_uri()
    assert (out / "mlflow.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sweeps"]
    assert [path.name for path in out.parent.iterdir()] == [name]
    command = shlex.split(ui_command(uri, "7", "s1").splitlines()[0])
    assert command[:4] == ["mlflow", "ui", "--backend-store-uri", uri]


def test_a_refusal_of_the_database_is_told_by_who_asked_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = quiet_client(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.search_experiments()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("ALTER TABLE experiments RENAME TO lost")
    with pytest.raises(MlflowException) as error:
        client.search_experiments()
    assert reason_of(error.value) == "no such table: experiments"
    assert "".join(capfd.readouterr()) == ""


def test_databases_elsewhere_are_no_files() -> None:
    assert database_of("postgresql://db/mlflow") is None
    assert database_of("sqlite:////x/mlflow.db?mode=ro") is None


@pytest.mark.parametrize("chosen", [None, "false"])
def test_telemetry_is_off_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    if chosen is not None:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", chosen)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    set_request_environment()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == (chosen or "true")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_an_experiment_is_created_once_with_artifacts_beside_the_database(
    database: Path, client: MlflowClient
) -> None:
    uri = f"sqlite:///{database}/mlflow.db"
    experiment = open_experiment(client, uri, "created once")
    created = experiment.experiment_id
    assert open_experiment(client, uri, "created once").experiment_id == created
    assert experiment.artifact_location == (database / "mlartifacts").as_uri()
    assert experiment.tags["mlflow.note.content"].startswith("FixRes sweeps: which EfficientNet")
    assert open_experiment(client, uri, EXPERIMENT).experiment_id != created


def test_a_deleted_experiment_is_the_users_to_mend(database: Path, client: MlflowClient) -> None:
    uri = f"sqlite:///{database}/mlflow.db"
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match="--experiment gone has been deleted in MLflow: restore it"):
        open_experiment(client, uri, "gone")
