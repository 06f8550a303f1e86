"""A sweep's folder from its runs alone: what a choice needs, of the cells that are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.output.sweep_record import read_sweep_record
from sweeps.reselect import load_sweep
from sweeps.selection import leaderboard
from sweeps.tracking.download import download_sweep
from sweeps.tracking.runs import SWEEP_KEY
from tests.factories import a_record
from tests.sweeps.tracking.recorded_sweep import TrackedSweep
from trainables.errors import UserError
from trainables.fixres.cell import recorded_hits
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


def test_a_run_that_is_not_there_is_the_users_to_mend(sweep: TrackedSweep, tmp_path: Path) -> None:
    missing = "f" * 32
    with pytest.raises(UserError, match=f"--sweep runs:/{missing} cannot be read from MLflow"):
        download_sweep(missing, sweep.uri, tmp_path)
