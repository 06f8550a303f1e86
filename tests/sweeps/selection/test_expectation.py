"""What a choice says is to be expected of it, against what simulated sweeps then show on test."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.optimism import simulate
from sweeps.selection.optimism import expectation
from trainables.evaluation.confidence import wilson
from trainables.fixres.head_settings import HeadGrid

SWEEPS = 40
GRID = HeadGrid(
    lr=(0.003, 0.03), label_smoothing=(0.0,), epochs=12, patience=12, batch_size=100
)  # fmt: skip


def test_the_interval_is_wilsons_about_the_corrected_share() -> None:
    found = expectation(0.9, 0.02, 300)
    assert found.top1 == pytest.approx(0.88)
    assert (found.low, found.high) == pytest.approx(wilson(264, 300))
    assert expectation(0.9, -0.02, 300).top1 == 0.9  # chance cannot make a choice worth more
    assert expectation(0.01, 0.02, 300).top1 == 0.0


def test_what_is_expected_is_what_test_shows_and_what_is_said_is_more() -> None:
    """Of 40 intervals of 95 %, 34 or more have the truth in them but for 1 draw in 200."""
    found = [simulate(200, 1.2, seed, GRID) for seed in range(SWEEPS)]
    covered = sum(f.low <= f.test <= f.high for f in found)
    assert covered >= 34
    said, expected, test = (
        np.array([getattr(f, name) for f in found]) for name in ("said", "expected", "test")
    )
    error = (expected - test).std() / SWEEPS**0.5
    assert abs((expected - test).mean()) < 0.01 + 3 * error
    assert (said - test).mean() > 0.015
