"""Let a sweep's own MLflow database follow its folder: MLflow writes absolute places into it.

Without this, a sweep whose folder was moved or copied would write to the former place.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from trainables.errors import UserError
from trainables.storage.full_disk import full_disk_told
from trainables.storage.retry import first_line

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # a file, and the folder of all artifacts beside
# Columns that hold places of artifacts, by table.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_folder(database: Path) -> bool:
    """Rewrite the places in a database to the folder that it lies in, all of them or none.

    Args:
        database: a sqlite file of MLflow; one that does not exist is passed over.

    Returns:
        Whether it had been written in another folder.

    Raises:
        UserError: it is no database, damaged, or in use.
        DiskFullError: its disk is full.
    """
    if not database.exists():
        return False
    here = (database.parent / ARTIFACTS).as_uri()
    try:
        with (
            full_disk_told(database),
            closing(sqlite3.connect(database)) as connection,
            connection,
        ):
            ((state, *_),) = connection.execute("PRAGMA quick_check(1)")
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            return _rewrite(connection, here)
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{database} cannot be used ({first_line(error)}): end what else writes to it, or make "
            "it writable."
        ) from None
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{database} is damaged ({first_line(error)}): delete it, and the same command writes "
            "the sweep's runs anew."
        ) from None


def _rewrite(connection: sqlite3.Connection, here: str) -> bool:
    """Rewrite all places below the artifact folders of experiments that are elsewhere."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "experiments" not in tables:
        return False
    places = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    former = {p for (p,) in places if p and p.endswith(f"/{ARTIFACTS}") and p != here}
    for table, column in PLACES:
        if table not in tables:
            continue
        for place in former:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(place) + 1, place, len(place) + 1, f"{place}/"),
            )
    return bool(former)
