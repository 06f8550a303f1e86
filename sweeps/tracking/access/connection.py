"""Reach an MLflow tracking store: its address, a client for it, an experiment."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import quote

from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url

from sweeps.tracking.access.moved_folder import ARTIFACTS, DATABASE
from trainables.errors import UserError

SQLITE = "sqlite:///"
EXPERIMENT_NOTE = (
    "FixRes sweeps: which EfficientNet, train resolution and test resolution serve best. A run for "
    "each sweep, and below it one for each trunk (trained once) and each cell (a trunk adapted to "
    "a test resolution)."
)
REQUEST_ENVIRONMENT = {
    # The outbox tries again, and looks first whether a request whose answer was lost was done.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def default_uri(out: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or else the URI of a sqlite file in the folder ``out``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(out / DATABASE)


def sqlite_uri(database: Path) -> str:
    """Build the URI of an SQLite database, whatever characters its path has.

    Raises:
        UserError: its path cannot be written as a URI.
    """
    # MLflow makes the folder that the text after the scheme seems to lie in: in the second form,
    # for paths with a question mark or a percent sign, it has none, as its slashes are quoted too.
    for uri in (f"{SQLITE}{database}", SQLITE + quote(str(database), safe="")):
        if database_of(uri) == database:
            return uri
    raise UserError(
        f"--out {database.parent} cannot be written as the URI of a database: name a folder "
        "without question marks and percent signs, or give --tracking-uri."
    )


def database_of(uri: str) -> Path | None:
    """Find the file of a database from its URI; None where it is no file of SQLite."""
    if not uri.startswith(SQLITE):
        return None
    url = make_url(uri)
    return Path(url.database) if url.database and not url.query else None


def set_request_environment() -> None:
    """Set how this process's MLflow client sends requests, and switch its telemetry off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.update(REQUEST_ENVIRONMENT)


def quiet_client(uri: str | None) -> MlflowClient:
    """Create a client that logs no table that it creates, and no refusal that it raises.

    Args:
        uri: of the tracking store; None: the one that MLflow itself would use.
    """
    for logger in ("mlflow", "alembic", "psycopg"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # A refusal of the database is logged here with its traceback and raised as well: who asked
    # tells it in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


def open_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    """Return the experiment ``name``, which is created if it does not exist.

    Args:
        uri: of the client's tracking store. For a sqlite file, artifacts go beside the file.

    Raises:
        UserError: the experiment has been deleted.
        MlflowException: the tracking store does not answer.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"--experiment {name} has been deleted in MLflow: restore it, or name another."
            )
        return experiment
    location = None
    database = database_of(uri)
    if database is not None:
        # By default, MLflow would write artifacts to the working directory.
        location = (database.resolve().parent / ARTIFACTS).as_uri()
    tags = {"mlflow.note.content": EXPERIMENT_NOTE}
    created = client.create_experiment(name, artifact_location=location, tags=tags)
    return client.get_experiment(created)
