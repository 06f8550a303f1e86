"""One database and one recorded sweep for all tests of MLflow: a fresh one takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from sweeps.tracking.access.connection import open_experiment, quiet_client
from sweeps.tracking.delivery.shortfall import shortfall_path
from tests.sweeps.tracking.recorded_sweep import (
    EXPERIMENT,
    RecordedSweep,
    TrackedSweep,
    record_sweep,
)
from trainables.storage.hashing import content_hash


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """MLflow's defaults, and no system metrics; what tracking sets is taken back."""
    before = dict(os.environ)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] = "3600"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sqlite tracking store that has the experiment."""
    folder = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{folder}/mlflow.db"
    open_experiment(quiet_client(uri), uri, EXPERIMENT)
    return folder


@pytest.fixture
def client(database: Path) -> MlflowClient:
    """A client of a test's own, which the test may break."""
    return MlflowClient(tracking_uri=f"sqlite:///{database}/mlflow.db")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedSweep:
    return record_sweep(tmp_path_factory.mktemp("store"))


@pytest.fixture
def sweep(
    database: Path, client: MlflowClient, recorded: RecordedSweep, request: pytest.FixtureRequest
) -> TrackedSweep:
    shortfall_path(recorded.store).unlink(missing_ok=True)  # another test's
    return TrackedSweep(database, client, recorded, content_hash(request.node.nodeid))
