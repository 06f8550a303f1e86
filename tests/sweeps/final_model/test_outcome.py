"""The outcome of a sweep is read again as it was written; gains are paired."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sweeps.final_model.outcome import PairedGain, paired_gain, read_outcome, write_choice
from sweeps.selection import leaderboard
from tests.factories import a_row, outcome_of

ROWS = [a_row(90, 100), a_row(40, 50, split="test"), a_row(30, 50, split="test", arm="crop1")]
GAINS = {"test": PairedGain(difference=0.2, error=0.05)}


def test_read_as_written(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, gains=GAINS, refit=True, test_cells=2)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    assert read_outcome(tmp_path, ()) is None
    write_choice(tmp_path, outcome)
    assert read_outcome(tmp_path, ()) == outcome
    assert outcome.test == ROWS[1]


def test_a_set_that_is_still_to_be_read_makes_it_unfinished(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, gains=GAINS)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    write_choice(tmp_path, outcome)
    assert read_outcome(tmp_path, ("sketch",)) is None


def test_a_gain_is_the_paired_difference() -> None:
    tuned = np.array([True] * 6 + [False] * 2 + [True] * 12)
    untuned = np.array([False] * 6 + [True] * 2 + [True] * 12)
    gain = paired_gain(tuned, untuned)
    assert gain.difference == pytest.approx(4 / 20)
    # The standard error of Agresti and Min counts 6.5 and 2.5 of 22 images.
    assert gain.error == pytest.approx(math.sqrt(9 - 16 / 22) / 22)
