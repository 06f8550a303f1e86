"""Bring what a choice needs out of MLflow, of a finished or a running sweep."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.payloads import ROWS
from sweeps.tracking.runs import quiet_client
from sweeps.tracking.ui_links import without_credentials
from trainables.errors import UserError
from trainables.fixres.cell import PREDICTIONS
from trainables.storage.artifact_store import Store


def download_sweep(run_id: str, tracking_uri: str | None, folder: Path) -> None:
    """Lay the cells of the parent run ``run_id`` out as a sweep's folder.

    Raises:
        UserError: MLflow does not answer, or has no such run.
    """
    client = quiet_client(tracking_uri)
    try:
        parent = client.get_run(run_id)
        cells = client.search_runs(
            [parent.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{run_id}' AND tags.role = 'cell' "
            "AND attributes.status = 'FINISHED'",
            max_results=10_000,
        )
        client.download_artifacts(run_id, "spec.json", str(folder))
        rows: list[Row] = []
        for run in cells:
            rows += _bring_cell(client, run.info.run_id, folder)
    except (MlflowException, OSError) as error:
        where = without_credentials(client.tracking_uri)
        raise UserError(
            f"--sweep runs:/{run_id} cannot be read from MLflow at {where} "
            f"({str(error).splitlines()[0][:200]}): check the run's id and --tracking-uri."
        ) from None
    if rows:
        leaderboard.write(folder / "leaderboard.parquet", rows)


def _bring_cell(client: MlflowClient, run_id: str, folder: Path) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        rows = leaderboard.read(Path(client.download_artifacts(run_id, ROWS, name)))
        predictions = Path(client.download_artifacts(run_id, PREDICTIONS, name))
        place = Store(folder / "store").cell(rows[0].cell) / PREDICTIONS
        place.parent.mkdir(parents=True)
        shutil.move(predictions, place)
    return rows
