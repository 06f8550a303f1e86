"""A sweep's folder from its runs alone: what a choice needs, of the cells that are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.output.sweep_record import read_sweep_record
from sweeps.reselect import load_sweep
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from sweeps.tracking.download import download_sweep
from sweeps.tracking.runs import SWEEP_KEY
from tests.factories import a_record
from tests.sweeps.tracking.recorded_sweep import TrackedSweep
from trainables.errors import UserError
from trainables.fixres.cell import PREDICTIONS, recorded_hits
from trainables.storage.artifact_store import Store


def track(sweep: TrackedSweep, count: int) -> str:
    """Write the sweep's spec and its first events; the parent's id."""
    tracker = sweep.tracker()
    for event in sweep.events[:count]:
        tracker.on(event)
    a_record().write(sweep.folder)
    tracker.attach([sweep.folder / "spec.json"])
    tracker.close("KILLED")
    return str(sweep.run(SWEEP_KEY).info.run_id)


def test_a_sweep_that_still_runs_gives_its_finished_cells(
    sweep: TrackedSweep, tmp_path: Path
) -> None:
    run_id = track(sweep, len(sweep.events) - 1)
    last = sweep.recorded.ended_cells[-1]
    download_sweep(run_id, sweep.uri, tmp_path)
    assert read_sweep_record(tmp_path) == read_sweep_record(sweep.folder)
    rows = leaderboard.read(tmp_path / "leaderboard.parquet")
    assert set(rows) == set(sweep.recorded.rows) - set(last.rows)
    for row in rows:
        assert len(recorded_hits(Store(tmp_path / "store"), row.cell, row.arm)) == row.n


def test_a_choice_may_be_made_from_the_runs_alone(sweep: TrackedSweep) -> None:
    run_id = track(sweep, len(sweep.events))
    with load_sweep(f"runs:/{run_id}", sweep.uri) as loaded:
        assert set(leaderboard.read(loaded.folder / "leaderboard.parquet")) == set(
            sweep.recorded.rows
        )
        assert loaded.record.classes == ("a", "b")
    assert not loaded.folder.exists()


def test_without_a_finished_cell_there_is_no_leaderboard(
    sweep: TrackedSweep, tmp_path: Path
) -> None:
    download_sweep(track(sweep, 1), sweep.uri, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def planted(sweep: TrackedSweep, folder: Path, change: Callable[[Row], Row]) -> str:
    """A sweep in MLflow to which somebody has added another run of a cell, with other rows."""
    run_id = track(sweep, len(sweep.events))
    cell = sweep.recorded.ended_cells[0]
    parent = sweep.client.get_run(run_id)
    tags = {"mlflow.parentRunId": run_id, "role": "cell"}
    added = sweep.client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    leaderboard.write(folder / "rows.parquet", [change(row) for row in cell.rows])
    predictions = sweep.recorded.store.cell(cell.cell.key) / PREDICTIONS
    for file in (folder / "rows.parquet", predictions):
        sweep.client.log_artifact(added, str(file))
    sweep.client.set_terminated(added)
    return run_id


@pytest.mark.parametrize(
    "change",
    [
        lambda row: replace(row, cell="../../planted"),
        lambda row: replace(row, trunk="../../planted"),
        lambda row: replace(row, cell="0123456789ABCDEF"),
        lambda row: replace(row, cell="0123456789abcdef" if row.arm == "fix" else row.cell),
    ],
)
def test_keys_that_lead_elsewhere_are_refused(
    sweep: TrackedSweep, tmp_path: Path, change: Callable[[Row], Row]
) -> None:
    folder = tmp_path / "deep" / "sweep"
    folder.mkdir(parents=True)
    run_id = planted(sweep, tmp_path, change)
    with pytest.raises(UserError, match="does not name one cell by its key"):
        download_sweep(run_id, sweep.uri, folder)
    assert not list(tmp_path.rglob("planted*"))


def test_a_cell_with_two_runs_is_taken_once(sweep: TrackedSweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    download_sweep(planted(sweep, tmp_path, lambda row: row), sweep.uri, folder)
    rows = leaderboard.read(folder / "leaderboard.parquet")
    assert sorted(map(repr, rows)) == sorted(map(repr, sweep.recorded.rows))


def test_rows_without_their_predictions_are_refused(sweep: TrackedSweep, tmp_path: Path) -> None:
    run_id = planted(sweep, tmp_path, lambda row: replace(row, arm="bn"))
    with pytest.raises(UserError, match=r"has a file that is no sweep's .*no column bn"):
        download_sweep(run_id, sweep.uri, tmp_path)


def test_a_run_that_is_not_there_is_the_users_to_mend(sweep: TrackedSweep, tmp_path: Path) -> None:
    missing = "f" * 32
    with pytest.raises(UserError, match=f"--sweep runs:/{missing} cannot be read from MLflow"):
        download_sweep(missing, sweep.uri, tmp_path)
