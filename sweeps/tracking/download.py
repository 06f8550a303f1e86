"""Download from MLflow what a choice among a sweep's cells needs, into a sweep's folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.output.location import BOARD
from sweeps.output.sweep_record import SPEC
from sweeps.redaction import redacted, without_credentials
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.access.connection import quiet_client
from sweeps.tracking.access.preflight import check_address
from sweeps.tracking.delivery.answers import reason_of
from sweeps.tracking.payloads import ROWS_FILE
from trainables.errors import UserError
from trainables.fixres.cell import PREDICTIONS, read_hits
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.hashing import is_key


def download_sweep(run_id: str, tracking_uri: str | None, folder: Path) -> None:
    """Download spec, leaderboard and predictions of a sweep that has finished or still runs.

    They are laid out as the sweep itself lays out its folder. Only cells that have finished are
    there; without any, no leaderboard is written.

    Args:
        run_id: MLflow's id of the sweep's parent run.
        tracking_uri: None: the one that MLflow itself would use.
        folder: an empty one.

    Raises:
        UserError: MLflow does not answer, has no such run, or its files are no sweep's.
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
        rows: dict[str, list[Row]] = {}  # by cell: one may have several runs
        for run in cells:
            rows.update(_download_cell(client, run.info.run_id, folder))
    except (MlflowException, OSError) as error:
        uri = client.tracking_uri
        raise UserError(
            f"--sweep runs:/{run_id} cannot be read from MLflow at {without_credentials(uri)} "
            f"({redacted(reason_of(error), uri)}): check the run's id and --tracking-uri."
        ) from None
    except DamagedFileError as error:
        raise UserError(
            f"--sweep runs:/{run_id} has a file that is no sweep's (the {error.path.name} of a "
            f"run is damaged: {error.why}): name another sweep, or delete that run."
        ) from None
    if rows:
        leaderboard.write(folder / BOARD, [row for of_cell in rows.values() for row in of_cell])


def _download_cell(client: MlflowClient, run_id: str, folder: Path) -> dict[str, list[Row]]:
    """Return a cell's rows by its key, and put its predictions into the folder's store.

    Raises:
        UserError: the rows are of no cell, or of several.
        DamagedFileError: a file is not what a sweep has written.
    """
    with tempfile.TemporaryDirectory() as temporary:
        rows = leaderboard.read(Path(client.download_artifacts(run_id, ROWS_FILE, temporary)))
        keys = {row.cell for row in rows}
        # Whoever writes to MLflow writes these: they name folders, here and in the sweep's store.
        if len(keys) != 1 or not all(is_key(row.cell) and is_key(row.trunk) for row in rows):
            raise UserError(
                f"{ROWS_FILE} of MLflow's run {run_id} does not name one cell by its key: it was "
                "not written by a sweep, and is not read; delete that run."
            )
        (key,) = keys
        predictions = Path(client.download_artifacts(run_id, PREDICTIONS, temporary))
        for row in rows:
            read_hits(predictions, row.arm)
        target = Store(folder / "store").cell(key) / PREDICTIONS
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(predictions, target)
    return {key: rows}
