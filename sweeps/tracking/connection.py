"""Reach an MLflow tracking store: its address, a client for it, an experiment, its errors."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import quote

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url

from sweeps.tracking.moved_folder import ARTIFACTS, DATABASE
from sweeps.tracking.outbox import does_not_answer
from sweeps.tracking.payloads import EXPERIMENT_NOTE
from sweeps.tracking.ui_links import without_credentials
from trainables.errors import UserError
from trainables.storage.full_disk import disk_full, disk_state

SQLITE = "sqlite:///"
REQUEST_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # The outbox tries again.
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
    """Create a client that does not log every database table it creates.

    Args:
        uri: of the tracking store; None: the one that MLflow itself would use.
    """
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def open_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of the experiment ``name``, which is created if it does not exist.

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
        return str(experiment.experiment_id)
    location = None
    database = database_of(uri)
    if database is not None:
        # By default, MLflow would write artifacts to the working directory.
        location = (database.resolve().parent / ARTIFACTS).as_uri()
    tags = {"mlflow.note.content": EXPERIMENT_NOTE}
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


def unusable_store(uri: str, error: MlflowException) -> UserError:
    """Build the error that says why a tracking store cannot be used, without its credentials."""
    message = str(error).replace(uri.rstrip("/"), without_credentials(uri).rstrip("/"))
    return UserError(
        f"--tracking-uri {without_credentials(uri)} cannot be used "
        f"({message.splitlines()[0][:200]}): start the server, or leave the option out for a "
        "sqlite file in OUT."
    )


def why_not_written(error: Exception) -> str:
    """Say in half a sentence why MLflow has not taken something."""
    state = disk_state(error)
    if state is None:
        return does_not_answer(error)
    return f"cannot write: {str(disk_full(state, _file_of(error))).partition(':')[0]}, free some"


def _file_of(error: Exception) -> str | None:
    """Return the file that an error of the system names, if it names one."""
    name = getattr(error, "filename", None)
    return name if isinstance(name, str) else None


def is_transient(error: Exception) -> bool:
    """Return whether another try may help: there was no answer, or one that says to come back."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500 or error.get_http_status_code() == 429)
    if disk_state(error) is not None:
        return True
    response = getattr(error, "response", None)
    if response is not None:  # The upload of an artifact was answered by an HTTP error.
        return bool(response.status_code >= 500 or response.status_code in (408, 429))
    return isinstance(error, OSError)
