"""A sweep's own database follows its folder: nothing is written where the folder was."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sweeps.tracking.access import moved_folder
from sweeps.tracking.access.connection import open_experiment, quiet_client
from sweeps.tracking.access.moved_folder import PLACES, follow_folder
from trainables.errors import UserError


def places(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [
            place
            for table, column in PLACES
            for (place,) in connection.execute(f"SELECT {column} FROM {table}")
            if place
        ]


@pytest.mark.parametrize("name", ["moved", "m o,v é"])
def test_what_is_logged_after_a_move_lies_in_the_new_folder(tmp_path: Path, name: str) -> None:
    old, new, file = tmp_path / "old", tmp_path / name, tmp_path / "file.txt"
    old.mkdir()
    file.write_text("content")
    uri = f"sqlite:///{old}/mlflow.db"
    client = quiet_client(uri)
    run_id = client.create_run(open_experiment(client, uri, "sweeps").experiment_id).info.run_id
    client.log_artifact(run_id, str(file))
    model = client.create_logged_model("1", name="trunk", source_run_id=run_id)
    client.create_registered_model("net")
    client.create_model_version("net", source=model.artifact_location, run_id=run_id)
    assert not follow_folder(old / "mlflow.db")
    shutil.move(old, new)
    assert follow_folder(new / "mlflow.db")
    assert not follow_folder(new / "mlflow.db")
    uri = f"sqlite:///{new}/mlflow.db"
    client = quiet_client(uri)
    # The client of this process keeps the former place of a run that it has logged to.
    repository = get_artifact_repository(client.get_run(run_id).info.artifact_uri)
    repository.log_artifact(str(file), "again")
    client.log_model_artifact(model.model_id, str(file))
    again = client.create_run(open_experiment(client, uri, "sweeps").experiment_id).info.run_id
    client.log_artifact(again, str(file))
    assert [artifact.path for artifact in repository.list_artifacts()] == ["again", "file.txt"]
    assert not old.exists()
    assert len(list(new.rglob("file.txt"))) == 4
    assert not [place for place in places(new / "mlflow.db") if str(old) in place]


def test_all_places_are_rewritten_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, places_of_old = tmp_path / "mlflow.db", "file:///old/mlartifacts"
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(f"CREATE TABLE {table} ({column})")
        connection.execute("INSERT INTO experiments VALUES (?)", (places_of_old,))
        for place in (
            f"{places_of_old}/1/artifacts",
            "s3://bucket/x",
            "file:///old/mlartifacts2/1",
        ):
            connection.execute("INSERT INTO runs VALUES (?)", (place,))
    content = database.read_bytes()
    broken = (("runs", "artifact_uri"), ("runs", "no_such_column"))
    monkeypatch.setattr(moved_folder, "PLACES", broken)
    with pytest.raises(UserError, match="cannot be used"):
        follow_folder(database)
    assert database.read_bytes() == content
    monkeypatch.setattr(moved_folder, "PLACES", PLACES[:2])
    assert follow_folder(database)
    with closing(sqlite3.connect(database)) as connection:
        rows = [row for (row,) in connection.execute("SELECT artifact_uri FROM runs")]
    here = tmp_path.as_uri()
    assert rows == [
        f"{here}/mlartifacts/1/artifacts", "s3://bucket/x", "file:///old/mlartifacts2/1"
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["halved", "random", "text"])
def test_a_damaged_database_is_named(tmp_path: Path, damage: str) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE experiments (artifact_location)")
        connection.executemany("INSERT INTO experiments VALUES (?)", [("x" * 900,)] * 40)
    content = database.read_bytes()
    if damage == "halved":
        database.write_bytes(content[: len(content) // 2])
    else:
        database.write_bytes(b"no database " * 500 if damage == "text" else bytes(range(256)) * 9)
    with pytest.raises(UserError, match=r"mlflow.db is damaged \(.*\): delete it"):
        follow_folder(database)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_database_or_none_is_passed_over(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "mlflow.db").touch()
    assert not follow_folder(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").exists() is exists
