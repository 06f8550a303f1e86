"""The run of a cell: the four axes, val accuracy by arm, rows, predictions, changed tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sweeps.planning.cell import Cell
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.cell_run import CellRunWriter
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.payloads import ROWS_FILE
from sweeps.tracking.runs import NoRunError, cell_key, trunk_key
from sweeps.tracking.trunk_run import TrunkRunWriter
from tests.sweeps.tracking.recorded_sweep import PLAN, TrackedSweep, run_store, started_runs
from trainables.fixres.cell import PREDICTIONS

AT_MS = 1_700_000_000_000


def writer_of(sweep: TrackedSweep) -> CellRunWriter:
    """A writer of cells as a new process has it; the trunks and their models are there."""
    runs = started_runs(sweep)
    datasets, models, store = ImageDatasets(runs), LoggedModels(runs), sweep.recorded.store
    datasets.define(PLAN)
    trunks = TrunkRunWriter(runs, datasets, models, store)
    trunk = sweep.recorded.ended_cells[0].cell.trunk
    trunks.begin(trunk, AT_MS)
    trunks.log_model(trunk)
    return CellRunWriter(runs, datasets, models, store)


def end(writer: CellRunWriter, cell: Cell, rows: Sequence[Row], at_ms: int = AT_MS) -> None:
    for step in writer.steps_to_end(cell, rows, at_ms):
        step()


def test_a_cell_has_the_four_axes_as_its_only_params(sweep: TrackedSweep) -> None:
    event = sweep.recorded.ended_cells[0]
    assert not writer_of(sweep).begin(event.cell, AT_MS)
    run = sweep.run(cell_key(event.cell.key))
    res = {"train_res": str(event.cell.trunk.train_res), "test_res": str(event.cell.test_res)}
    assert run.data.params == {"variant": "b0", **res, "test_crop_pct": "1.0"}
    assert run.info.run_name == f"b0-tr{res['train_res']}-te{res['test_res']}-c1.0"
    assert run.data.tags["role"] == "cell"
    assert run.data.tags["trunk"] == event.cell.trunk.key
    assert run.data.tags["trunk_run"] == run_store(sweep).run_id(trunk_key(event.cell.trunk.key))


def test_a_cell_ends_with_accuracies_rows_and_predictions(sweep: TrackedSweep) -> None:
    event = sweep.recorded.ended_cells[0]
    none, fix = event.rows
    for _ in range(2):
        end(writer_of(sweep), event.cell, event.rows)
    run = sweep.run(cell_key(event.cell.key))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/top1"] == pytest.approx(fix.top1)
    assert run.data.metrics["val/top1_none"] == pytest.approx(none.top1)
    assert (run.data.tags["n_val"], run.data.tags["best_arm"]) == ("50", "fix")
    assert run.data.tags["head_fix"].endswith("of 30 tried") and "head_none" not in run.data.tags
    images = sweep.images_of(cell_key(event.cell.key))
    assert [one.dataset.name for one in images] == ["built-in digits val"]
    files = {a.path for a in sweep.client.list_artifacts(run.info.run_id)}
    assert files == {ROWS_FILE, PREDICTIONS}
    path = sweep.client.download_artifacts(run.info.run_id, ROWS_FILE)
    assert leaderboard.read(Path(path)) == list(event.rows)


def test_what_the_arms_changed_is_a_model_made_from_the_trunks(sweep: TrackedSweep) -> None:
    event = sweep.recorded.ended_cells[0]
    end(writer_of(sweep), event.cell, event.rows)
    models = sweep.models()
    model = models[cell_key(event.cell.key)]
    assert model.name == f"cell-b0-tr{event.cell.trunk.train_res}-te{event.cell.test_res}-c1_0"
    (metric,) = list(model.metrics or ())  # not of the arm "none", which changes nothing
    assert metric.key == "val/top1_fix" and metric.value == pytest.approx(event.rows[1].top1)
    assert metric.dataset_name == "built-in digits val"
    assert sweep.files_of(model) == ["delta-fix.safetensors"]
    source = models[trunk_key(event.cell.trunk.key)]
    assert sweep.sources_of(cell_key(event.cell.key)) == [source.model_id]


def test_arms_that_changed_nothing_leave_no_model(sweep: TrackedSweep) -> None:
    event = sweep.recorded.ended_cells[0]
    end(writer_of(sweep), event.cell, event.rows[:1])
    assert sweep.models().keys() == {trunk_key(event.cell.trunk.key)}
    assert sweep.run(cell_key(event.cell.key)).data.tags["best_arm"] == "none"


def test_a_cell_without_rows_has_failed(sweep: TrackedSweep) -> None:
    event = sweep.recorded.ended_cells[0]
    end(writer_of(sweep), event.cell, (), AT_MS + 7)
    run = sweep.run(cell_key(event.cell.key))
    assert (run.info.status, run.info.end_time) == ("FAILED", AT_MS + 7)
    assert not run.data.metrics


def test_a_cell_needs_its_trunks_run(sweep: TrackedSweep) -> None:
    first, *others = sweep.recorded.ended_cells
    other = next(event for event in others if event.cell.trunk.key != first.cell.trunk.key)
    with pytest.raises(NoRunError, match=other.cell.trunk.key):
        writer_of(sweep).begin(other.cell, AT_MS)
