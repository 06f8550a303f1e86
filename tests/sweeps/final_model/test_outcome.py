"""What a finished sweep says is read again as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sweeps.final_model.outcome import Outcome, PairedGain, read_outcome, write_choice
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from tests.sweeps.selection.test_leaderboard import a_row


def outcome_of(
    rows: list[Row],
    choice: Choice | None = None,
    *,
    gains: Mapping[str, PairedGain] | None = None,
    refit: bool = False,
    test_cells: int = 1,
) -> Outcome:
    """An outcome; the first row is chosen unless there is a choice."""
    return Outcome(
        rows=rows,
        choice=choice or Choice(row=rows[0], reason="It is the best.", optimism=0.0),
        gains=gains or {},
        refit=refit,
        test_cells=test_cells,
    )


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
