"""What a finished sweep says is read again as it was written."""

from __future__ import annotations

from pathlib import Path

from sweeps.final_model.outcome import PairedGain, read_outcome, write_choice
from sweeps.selection import leaderboard
from tests.factories import a_row, outcome_of

ROWS = [a_row(90, 100), a_row(40, 50, split="test"), a_row(30, 50, split="test", arm="crop1")]
GAINS = {"test": PairedGain(difference=0.2, error=0.05)}


def test_read_as_written(tmp_path: Path) -> None:
    told = outcome_of(ROWS, gains=GAINS, refit=True, test_cells=2)
    leaderboard.write(tmp_path / "leaderboard.parquet", told.rows)
    assert read_outcome(tmp_path, ()) is None
    write_choice(tmp_path, told)
    assert read_outcome(tmp_path, ()) == told
    assert told.test == ROWS[1]


def test_a_set_that_is_still_to_be_read_makes_it_unfinished(tmp_path: Path) -> None:
    told = outcome_of(ROWS, gains=GAINS)
    leaderboard.write(tmp_path / "leaderboard.parquet", told.rows)
    write_choice(tmp_path, told)
    assert read_outcome(tmp_path, ("sketch",)) is None
