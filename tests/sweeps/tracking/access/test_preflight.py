"""What MLflow would refuse is refused before a sweep begins, in a sentence."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from sweeps.tracking.access.connection import quiet_client
from sweeps.tracking.access.preflight import check_address, connect
from tests.factories import is_one_sentence
from trainables.errors import UserError


def refusal_of_address(uri: str) -> str:
    with pytest.raises(UserError) as refused:
        check_address(uri, "MLFLOW_TRACKING_URI")
    message = str(refused.value)
    assert is_one_sentence(message) and message.startswith("MLFLOW_TRACKING_URI ")
    assert "s3cret" not in message
    return message


@pytest.mark.parametrize("uri", ["mlruns", "/x/mlruns", "file:///x/mlruns", "file:mlruns", "./m"])
def test_folders_hold_no_runs_any_longer(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal_of_address(uri)
    assert "is a folder, and MLflow keeps no runs in folders any longer" in message
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_address(uri, "MLFLOW_TRACKING_URI")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("htp://me:s3cret@x", "htp://x is of no scheme that MLflow knows (http, https, postgresql"),
        ("s3://bucket/x", "is of no scheme that MLflow knows"),
        ("databricks-uc", "is of no scheme that MLflow knows"),
        ("localhost:5000", "is of no scheme: give http://localhost:5000."),
        ("127.0.0.1:5000", "is of no scheme: give http://127.0.0.1:5000."),
        ("http://", "is no address of a server"),
        ("http://h:port", "is no address of a server"),
        ("http://[::1", "is no address of a server"),
        ("postgresql+nodriver://me:s3cret@h/x", "is no address of a database (Can't load plugin"),
        ("postgresql://me:s3cret@h:x/y", "is no address of a database"),
        ("sqlite+pysqlcipher://:s3cret@/x.db", "is not installed"),
        ("mssql+pymssql://me:s3cret@h/x", "the Python package pymssql, which is not installed"),
    ],
)
def test_an_address_that_mlflow_cannot_use_is_refused(uri: str, words: str) -> None:
    assert words in refusal_of_address(uri)


@pytest.mark.parametrize(
    "uri",
    ["http://me:p@h:5000/a", "https://h", "sqlite:////a/b.db", "sqlite:///b.db", "databricks"],
)
def test_an_address_that_it_may_use_is_asked_for_nothing(uri: str) -> None:
    check_address(uri, "--tracking-uri")


def refusal_to_connect(uri: str, experiment: str = "e") -> str:
    with pytest.raises(UserError) as refused:
        connect(uri, experiment, "--tracking-uri")
    message = str(refused.value)
    assert is_one_sentence(message)
    return message


def test_a_file_that_is_no_database_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database, but long enough to be taken for one" * 9)
    assert "x.db cannot be used (DatabaseError: file is not a database)" in refusal_to_connect(
        f"sqlite:///{tmp_path}/x.db"
    )
    assert "cannot be used (No such file or directory: /proc/nope)" in refusal_to_connect(
        "sqlite:////proc/nope/x.db"
    )


def test_artifacts_that_cannot_be_written_from_here_are_told_before(
    database: Path, client: MlflowClient
) -> None:
    uri = f"sqlite:///{database}/mlflow.db"
    client.create_experiment("in proc", artifact_location="file:///proc/nope/a")
    message = refusal_to_connect(uri, "in proc")
    assert (
        "--experiment in proc has its artifacts in file:///proc/nope/a, where this machine"
        in message
    )
    assert "(No such file or directory)" in message
    client.create_experiment("in no store", artifact_location="nostore://me:s3cret@x/y")
    message = refusal_to_connect(uri, "in no store")
    assert "has its artifacts in nostore://x/y" in message and "s3cret" not in message
    client.create_experiment("in gs", artifact_location="gs://bucket/x")
    assert "this needs the Python package google-cloud-storage" in refusal_to_connect(uri, "in gs")
    # They are the user's, and stay.
    kept = client.get_experiment_by_name("in proc")
    assert kept is not None and kept.lifecycle_stage == "active"


def test_an_experiment_that_was_made_for_nothing_gives_its_name_back(
    database: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's artifact root would be the experiment's for ever."""
    uri = f"sqlite:///{database}/mlflow.db"
    make = MlflowClient.create_experiment

    def elsewhere(self: MlflowClient, name: str, **options: object) -> str:
        return make(self, name, artifact_location="/proc/nope")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_experiment", elsewhere)
        assert "has its artifacts in /proc/nope" in refusal_to_connect(uri, "free again")
    assert client.get_experiment_by_name("free again") is None
    assert connect(uri, "free again", "--tracking-uri").experiment_id


def test_artifacts_of_a_server_elsewhere_that_come_to_this_machine_are_told(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not take artifacts names a folder, which each client has of its own."""
    local = quiet_client(f"sqlite:///{database}/mlflow.db")
    local.create_experiment("far away", artifact_location=f"{tmp_path}/a")
    monkeypatch.setattr("sweeps.tracking.access.preflight.quiet_client", lambda _: local)
    for host, told in (("tracking.example", True), ("127.0.0.1", False)):
        said: list[str] = []
        connect(f"http://{host}:1", "far away", "--tracking-uri", said.append)
        words = f"MLflow at http://{host}:1 takes no files: they go into {tmp_path}/a here"
        assert said == [words] * told


def test_a_database_of_a_newer_mlflow_is_a_sentence(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    connect(uri, "e", "--tracking-uri")
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute("UPDATE alembic_version SET version_num = 'of the future'")
    database.commit()
    database.close()
    from mlflow.tracking._tracking_service import utils

    utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()
    assert "mlflow.db cannot be used (" in refusal_to_connect(uri)
