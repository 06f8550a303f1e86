"""Write the parent run of a sweep: the plan, the driver's system metrics, the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.planning.plan import Plan
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.cell_run import FORMER_CELL
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.payloads import (
    Results,
    result_metrics,
    result_note,
    result_tags,
    sweep_note,
    sweep_params,
    sweep_tags,
)
from sweeps.tracking.runs import SWEEP_KEY, RunStore, cell_key, points
from sweeps.tracking.ui_links import compare_link, sweep_view, view_link
from trainables.evaluation.class_metrics import Metric

LEADERBOARD_FILE = "leaderboard.json"
LEADERBOARD_COLUMNS = (
    "variant", "train_res", "test_res", "crop_pct", "arm", "split", "n", "top1", "top5",
    "balanced_accuracy", "macro_f1", "gmacs",
)  # fmt: skip


class SweepRunWriter:
    """Writes the parent run; each method may be called again with the same values.

    Args:
        name: of the run.
    """

    def __init__(self, runs: RunStore, datasets: ImageDatasets, name: str):
        self._runs, self._datasets, self._name = runs, datasets, name
        self._note = ""
        self._metric: Metric = "top1"

    def begin(self, plan: Plan, at_ms: int) -> None:
        """Create the run, or open it again, with the images of the plan.

        Args:
            at_ms: Unix time at which a new run began.
        """
        self._note, self._metric = sweep_note(plan), plan.metric
        self._datasets.define(plan)
        if self._runs.ensure(SWEEP_KEY, self._name, sweep_params(plan), sweep_tags(plan), at_ms):
            self._runs.reopen(SWEEP_KEY)
        self._describe_extended(plan)
        for split in self._datasets.splits:
            self._datasets.log_input(SWEEP_KEY, split)

    def _describe_extended(self, plan: Plan) -> None:
        """Tag the run with the axes that are other ones than its parameters, which never change."""
        params, tags = self._runs.params(SWEEP_KEY), self._runs.tags(SWEEP_KEY)
        axes = sweep_params(plan).items()
        now = {name: value for name, value in axes if name in tags or params.get(name) != value}
        if any(tags.get(name) != value for name, value in now.items()):
            self._runs.set_tags(SWEEP_KEY, {**now, "mlflow.note.content": self._note})

    def log_view(self) -> None:
        """Save a view of the sweep's cells for the UI."""
        view = sweep_view(self._runs.sweep_id, self._name, self._metric)
        self._runs.client.set_experiment_tag(self._runs.experiment_id, *view)

    def defer_system_metrics(self, values: Mapping[str, float], at_ms: int) -> None:
        """Keep a sample of the driver's system metrics for the next write.

        Args:
            at_ms: Unix time. The step is in seconds since the run began, so that steps go on
                after a restart.
        """
        step = (at_ms - self._runs.start_ms(SWEEP_KEY)) // 1000
        self._runs.defer_metrics(SWEEP_KEY, points(values, at_ms, step))

    def log_file(self, path: Path, folder: str = "") -> None:
        """Upload a file as an artifact, into a folder of the artifacts if one is named."""
        run_id = self._runs.run_id(SWEEP_KEY)
        self._runs.client.log_artifact(run_id, str(path), folder or None)

    def log_results(self, results: Results) -> None:
        """Write the choice, what failed, and links to the cells and to a comparison of the best."""
        at_ms = self._runs.start_ms(SWEEP_KEY)
        metrics = {**result_metrics(results.choice, results.rows), **results.further}
        self._runs.log_metrics(SWEEP_KEY, points(metrics, at_ms, results.step))
        cells, experiment_id = self._cells_best_first(results.rows), self._runs.experiment_id
        links = [
            compare_link(cells, experiment_id),
            view_link(len(cells), experiment_id, self._runs.sweep_id),
        ]
        note = {"mlflow.note.content": result_note(results, links, self._note)}
        self._runs.set_tags(SWEEP_KEY, result_tags(results) | note)

    def _cells_best_first(self, rows: Sequence[Row]) -> list[str]:
        """List the ids of the cells' runs; those without rows come last."""
        best: dict[str, float] = {}
        for row in rows:
            if row.split == "val":
                key = cell_key(row.cell)
                best[key] = max(best.get(key, -1.0), row.value(self._metric))
        keys = [
            key
            for key in self._runs.keys
            if key.startswith(cell_key("")) and self._runs.tags(key).get("role") != FORMER_CELL
        ]
        return [self._runs.run_id(k) for k in sorted(keys, key=lambda k: -best.get(k, -1.0))]

    def log_leaderboard(self, rows: Sequence[Row]) -> None:
        """Write the whole leaderboard as a table."""
        client, run_id = self._runs.client, self._runs.run_id(SWEEP_KEY)
        table = leaderboard.to_table(rows).select(list(LEADERBOARD_COLUMNS))
        if LEADERBOARD_FILE not in {artifact.path for artifact in client.list_artifacts(run_id)}:
            client.log_table(run_id, table.to_pydict(), LEADERBOARD_FILE)
            return
        # MLflow would append the rows to a table that is there.
        columns, values = table.column_names, table.to_pydict().values()
        split = {"columns": columns, "data": list(zip(*values, strict=True))}
        client.log_dict(run_id, split, LEADERBOARD_FILE)
