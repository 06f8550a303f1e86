"""Download from MLflow what a choice among a sweep's cells needs, into a sweep's folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.output.location import BOARD
from sweeps.output.sweep_record import SPEC
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.connection import quiet_client, without_secrets
from sweeps.tracking.delivery.answers import reason_of
from sweeps.tracking.payloads import ROWS_FILE
from sweeps.tracking.preflight import check_address
from sweeps.tracking.ui_links import without_credentials
from trainables.errors import UserError
from trainables.fixres.cell import PREDICTIONS
from trainables.storage.artifact_store import Store


def download_sweep(run_id: str, tracking_uri: str | None, folder: Path) -> None:
    """Download spec, leaderboard and predictions of a sweep that has finished or still runs.

    They are laid out as the sweep itself lays out its folder. Only cells that have finished are
    there; without any, no leaderboard is written.

    Args:
        run_id: MLflow's id of the sweep's parent run.
        tracking_uri: None: the one that MLflow itself would use.
        folder: an empty one.

    Raises:
        UserError: MLflow does not answer, or has no such run.
    """
    if tracking_uri is not None:
        check_address(tracking_uri, "--tracking-uri")
    client = quiet_client(tracking_uri)
    try:
        parent = client.get_run(run_id)
        cells = client.search_runs(
            [parent.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{run_id}' AND tags.role = 'cell' "
            "AND attributes.status = 'FINISHED'",
            max_results=10_000,
        )
        client.download_artifacts(run_id, SPEC, str(folder))
        rows: list[Row] = []
        for run in cells:
            rows += _download_cell(client, run.info.run_id, folder)
    except (MlflowException, OSError) as error:
        uri = client.tracking_uri
        raise UserError(
            f"--sweep runs:/{run_id} cannot be read from MLflow at {without_credentials(uri)} "
            f"({without_secrets(reason_of(error), uri)}): check the run's id and --tracking-uri."
        ) from None
    if rows:
        leaderboard.write(folder / BOARD, rows)


def _download_cell(client: MlflowClient, run_id: str, folder: Path) -> list[Row]:
    """Return a cell's rows, and put its predictions into the folder's store."""
    with tempfile.TemporaryDirectory() as temporary:
        rows = leaderboard.read(Path(client.download_artifacts(run_id, ROWS_FILE, temporary)))
        predictions = Path(client.download_artifacts(run_id, PREDICTIONS, temporary))
        target = Store(folder / "store").cell(rows[0].cell) / PREDICTIONS
        target.parent.mkdir(parents=True)
        shutil.move(predictions, target)
    return rows
