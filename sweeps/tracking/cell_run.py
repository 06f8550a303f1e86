"""Write the run of a cell: the axes, val accuracy by arm, rows, predictions, changed tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from sweeps.planning.cell import Cell
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.payloads import (
    ROWS_FILE,
    cell_end_tags,
    cell_metrics,
    cell_params,
    cell_run_name,
    repeat_tags,
)
from sweeps.tracking.runs import FAILED, RunStore, cell_key, points, trunk_key
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import PREDICTIONS, delta_path
from trainables.storage.artifact_store import Store
from trainables.storage.files import local_copy

# Roles of runs: of cells, and of those that the sweep is no longer over.
CELL, FORMER_CELL = "cell", "former cell"


class CellRunWriter:
    """Writes the runs of cells; each method may be called again with the same values.

    A run that has finished is left as it is. Times are Unix times in ms.

    Args:
        store: of the sweep, which holds the cells' predictions and changed tensors.
    """

    def __init__(self, runs: RunStore, datasets: ImageDatasets, models: LoggedModels, store: Store):
        self._runs, self._datasets, self._models, self._store = runs, datasets, models, store

    def begin(self, cell: Cell, at_ms: int) -> bool:
        """Create the run unless it exists, and return whether it has finished.

        Raises:
            NoRunError: the trunk has no run.
        """
        trunk_run = self._runs.run_id(trunk_key(cell.trunk.key))
        tags = {"role": CELL, "trunk": cell.trunk.key, "trunk_run": trunk_run} | repeat_tags(
            cell.trunk
        )
        name, params = cell_run_name(cell), cell_params(cell)
        return self._runs.ensure(cell_key(cell.key), name, params, tags, at_ms)

    def mark_former(self, planned: Collection[str]) -> None:
        """Tag the runs of cells that the sweep is no longer over, and those that it is over again.

        Args:
            planned: keys in the store of all cells that it is over.
        """
        keys = {cell_key(key) for key in planned}
        for key in self._runs.keys:
            if key.startswith(cell_key("")):
                role = CELL if key in keys else FORMER_CELL
                if self._runs.tags(key).get("role") != role:
                    self._runs.set_tags(key, {"role": role})

    def steps_to_end(self, cell: Cell, rows: Sequence[Row], at_ms: int) -> list[Callable[[], None]]:
        """Return the steps that write the results and end the run, each whatever came of the last.

        Args:
            rows: of the cell's arms on val; empty: the cell failed.
        """

        def step(write: Callable[[], None]) -> Callable[[], None]:
            def write_unless_finished() -> None:
                if not self.begin(cell, at_ms):
                    write()

            return write_unless_finished

        key = cell_key(cell.key)
        if not rows:
            return [step(lambda: self._runs.end(key, FAILED, at_ms))]
        return [
            step(lambda: self._log_metrics(cell, rows)),
            step(lambda: self._log_files(cell, rows)),
            step(lambda: self._log_model(cell, rows)),
            step(lambda: self._runs.end(key, end_ms=at_ms)),
        ]

    def _log_metrics(self, cell: Cell, rows: Sequence[Row]) -> None:
        key = cell_key(cell.key)
        metric = cell.spec.heads.metric
        values = cell_metrics(rows, metric)
        self._runs.log_metrics(key, points(values, self._runs.start_ms(key), 0))
        self._runs.set_tags(key, cell_end_tags(rows, metric))
        self._datasets.log_input(key, "val")

    def _log_files(self, cell: Cell, rows: Sequence[Row]) -> None:
        """Upload what a choice among cells needs: rows and predictions."""
        run_id = self._runs.run_id(cell_key(cell.key))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ROWS_FILE
            leaderboard.write(path, rows)
            with local_copy(self._store.cell(cell.key) / PREDICTIONS) as predictions:
                for file in (path, predictions):
                    self._runs.client.log_artifact(run_id, str(file))

    def _log_model(self, cell: Cell, rows: Sequence[Row]) -> None:
        """Log the tensors that the arms changed, if any did, as a model made from the trunk's."""
        changed = [row for row in rows if ARMS[row.arm].changes]
        if not changed:
            return
        key = cell_key(cell.key)
        at_ms = self._runs.start_ms(key)
        self._models.log(
            key,
            f"cell-{cell_run_name(cell)}",
            params=cell_params(cell),
            files=[delta_path(self._store, cell.key, row.arm) for row in changed],
            metrics=[
                self._datasets.point("val", f"val/top1_{row.arm}", row.value("top1"), at_ms, 0)
                for row in changed
            ],
            step=0,
            source_key=trunk_key(cell.trunk.key),
        )
