"""Find out before a sweep begins what MLflow would refuse: address, driver, artifact root.

What shows without a request is checked before anything is made; the rest when MLflow is connected,
which comes before the images are decoded.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow.entities import Experiment
from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.plugins import get_entry_points

from sweeps.redaction import redacted, without_credentials
from sweeps.tracking.access.connection import (
    open_experiment,
    quiet_client,
    set_request_environment,
)
from sweeps.tracking.delivery.answers import reason_of
from trainables.errors import UserError

CONNECT_S = 10  # for a database to answer
SERVER_SCHEMES = ("http", "https")
MANAGED = ("databricks",)
WORDS = frozenset(("databricks", "databricks-uc", "uc"))  # addresses without a scheme
HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/|$)")
PACKAGE_OF_DRIVER = {  # what pip installs, where its name is not the module's
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
PACKAGE_OF_ARTIFACTS = {  # module and package that artifacts of a scheme need
    "s3": ("boto3", "boto3"),
    "gs": ("google.cloud.storage", "google-cloud-storage"),
    "wasbs": ("azure.storage.blob", "azure-storage-blob"),
}
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An experiment of a tracking store that answers."""

    uri: str
    client: MlflowClient
    experiment_id: str


# --- without a request --------------------------------------------------------------------------


def check_address(uri: str, option: str) -> None:
    """Check the URI of a tracking store, as far as it shows without a request.

    Args:
        option: what the user gave it by, for the message.

    Raises:
        UserError: this MLflow knows no such stores, or lacks the driver of the database.
    """
    shown, scheme = f"{option} {without_credentials(uri)}", _scheme(uri)
    if HOST_AND_PORT.match(uri):
        raise UserError(f"{shown} is of no scheme: give http://{without_credentials(uri)}.")
    if scheme in ("", "file"):
        if not MLFLOW_ALLOW_FILE_STORE.get():
            raise UserError(
                f"{shown} is a folder, and MLflow keeps no runs in folders any longer: give "
                "sqlite:////PATH/mlflow.db, the http:// address of a server, or nothing for a "
                "sqlite file in OUT."
            )
    elif scheme.partition("+")[0] in DATABASE_ENGINES:
        _check_driver(uri, shown)
    elif scheme in SERVER_SCHEMES:
        _check_url(uri, shown)
    else:
        plugins = {entry.name for entry in get_entry_points("mlflow.tracking_store")}
        if scheme not in {*MANAGED, *plugins}:
            known = ", ".join((*SERVER_SCHEMES, *DATABASE_ENGINES, *MANAGED, *sorted(plugins)))
            raise UserError(
                f"{shown} is of no scheme that MLflow knows ({known}): give the http:// address of "
                "a server, or a database."
            )


def _scheme(uri: str) -> str:
    if uri in WORDS:
        return uri
    try:
        return urlsplit(uri).scheme
    except ValueError:  # such as brackets that are no IPv6 address
        return uri.partition(":")[0].lower()


def _check_url(uri: str, shown: str) -> None:
    try:
        parts = urlsplit(uri)
        is_right = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right:
        raise UserError(f"{shown} is no address of a server: give http://HOST:PORT.")


def _check_driver(uri: str, shown: str) -> None:
    try:
        sqlalchemy.create_engine(uri)
    except ModuleNotFoundError as error:
        package = PACKAGE_OF_DRIVER.get(str(error.name), str(error.name))
        raise UserError(
            f"{shown} needs the Python package {package}, which is not installed: pip install "
            f"'{package}', or give the http:// address of a server."
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, ValueError, TypeError) as error:
        reason = redacted(str(error).splitlines()[0][:200].rstrip(". "), uri)
        raise UserError(
            f"{shown} is no address of a database ({reason}): give it as "
            "postgresql://USER@HOST/NAME or sqlite:////PATH/mlflow.db."
        ) from None


# --- with requests ------------------------------------------------------------------------------


def connect(
    uri: str, experiment: str, option: str, say: Callable[[str], None] = lambda _: None
) -> Connection:
    """Connect the tracking store, and open the experiment, which is created if need be.

    Args:
        option: what the user gave the URI by, for messages.
        say: called with a sentence on where artifacts go, where that is no matter of course.

    Raises:
        UserError: the store does not answer, the experiment has been deleted, or its artifacts
            cannot be written from here.
    """
    set_request_environment()
    try:
        if _scheme(uri).partition("+")[0] in DATABASE_ENGINES:
            _try_database(uri)
        client = quiet_client(uri)
        is_new = client.get_experiment_by_name(experiment) is None
        opened = open_experiment(client, uri, experiment)
    except UserError:
        raise
    except Exception as error:  # whatever MLflow, the driver of a database or a plugin has
        raise _unusable(uri, option, error) from None
    try:
        _check_artifacts(opened, uri, say)
    except UserError:
        if is_new:
            _withdraw(client, opened)
        raise
    return Connection(uri=uri, client=client, experiment_id=str(opened.experiment_id))


def _try_database(uri: str) -> None:
    """Ask a database once: MLflow would ask one that does not answer for two minutes."""
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sqlalchemy.create_engine(url)
    else:
        timeout = {"connect_timeout": CONNECT_S} if "mssql" not in url.drivername else {}
        engine = sqlalchemy.create_engine(url, connect_args=timeout)
    try:
        sqlalchemy.inspect(engine)
    finally:
        engine.dispose()


def _unusable(uri: str, option: str, error: Exception) -> UserError:
    """Build the error that says why a tracking store cannot be used, without its credentials."""
    cause = getattr(error, "orig", None) or error  # a driver's own words
    reason = redacted(reason_of(cause), uri)
    advice = "start the server, or leave it out for a sqlite file in OUT"
    if _scheme(uri) == "sqlite":
        advice = "name a file that can be written, or move a damaged one away"
    return UserError(f"{option} {without_credentials(uri)} cannot be used ({reason}): {advice}.")


def _check_artifacts(experiment: Experiment, uri: str, say: Callable[[str], None]) -> None:
    """Check that this process can write an experiment's artifacts, as far as it shows."""
    root = str(experiment.artifact_location)
    scheme = urlsplit(root).scheme
    if scheme in ("", "file"):
        folder = Path(local_file_uri_to_path(root))
        reason = _why_not_writable(folder)
        if reason is None and _is_folder_unexpected(uri):
            say(f"MLflow at {without_credentials(uri)} takes no files: they go into {folder} here")
    elif scheme in PACKAGE_OF_ARTIFACTS and not _is_installed(PACKAGE_OF_ARTIFACTS[scheme][0]):
        reason = f"this needs the Python package {PACKAGE_OF_ARTIFACTS[scheme][1]}"
    else:
        reason = _why_no_repository(root, uri)
    if reason is not None:
        raise UserError(
            f"--experiment {experiment.name} has its artifacts in {without_credentials(root)}, "
            f"where this machine cannot write them ({reason}): start MLflow's server with "
            "--serve-artifacts or another --default-artifact-root, and name a new experiment."
        )


def _is_folder_unexpected(uri: str) -> bool:
    """Whether files are expected elsewhere than on this machine, or beside its database."""
    if _scheme(uri) in SERVER_SCHEMES:
        return urlsplit(uri).hostname not in LOOPBACK
    return _scheme(uri) != "sqlite"


def _why_not_writable(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False


def _why_no_repository(root: str, uri: str) -> str | None:
    try:
        get_artifact_repository(root, tracking_uri=uri)
    except Exception as error:  # whatever MLflow or a plugin has
        return redacted(reason_of(error), uri, root)
    return None


def _withdraw(client: MlflowClient, experiment: Experiment) -> None:
    """Delete an experiment and give up its name, which would keep its artifact root for ever."""
    with suppress(Exception):  # Where this is refused, another name does.
        name = f"{experiment.name} {uuid.uuid4().hex[:6]}"
        client.rename_experiment(experiment.experiment_id, name)
        client.delete_experiment(experiment.experiment_id)
