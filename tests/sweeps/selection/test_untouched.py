"""Fine-tuned rows are counted from the best row of the same net untouched."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.selection.leaderboard import Row
from sweeps.selection.untouched import best_untouched, untouched_of, with_gains_on_untouched
from tests.factories import a_row
from trainables.evaluation.confidence import paired_difference

N = 50


def hits_of(row: Row) -> np.ndarray:
    """The first images are right, of a fine-tuned row the last."""
    right = np.arange(N) < row.hits1
    return right if row.untouched else right[::-1]


def test_each_row_is_compared_with_its_own_nets_best_untouched_row() -> None:
    rows = [
        a_row(10, N, untouched=True, test_res=64, gmacs=0.1),
        a_row(20, N, untouched=True, test_res=96, gmacs=0.9),
        a_row(20, N, untouched=True, test_res=80, gmacs=0.5),
        a_row(30, N),
        a_row(15, N, arm="none"),
        a_row(40, N, split="test"),
        a_row(49, N, variant="b1"),  # has no untouched row
    ]
    assert best_untouched(rows) == {"b0": rows[2]}
    assert untouched_of(rows[3], rows) == untouched_of(rows[5], rows) == rows[2]
    assert untouched_of(rows[0], rows) is untouched_of(rows[6], rows) is None
    found = with_gains_on_untouched(rows, hits_of)
    compared = [r for r in found if r.on_untouched is not None]
    assert [(r.hits1, r.split) for r in compared] == [(30, "val"), (15, "val")]
    for row in compared:
        difference, error = paired_difference(hits_of(row), hits_of(rows[2]))
        assert (row.on_untouched, row.on_untouched_error) == (difference, error)
        assert difference == pytest.approx((row.hits1 - 20) / N)


def test_where_all_rows_are_untouched_none_is_compared() -> None:
    rows = [a_row(hits, N, untouched=True) for hits in (10, 20)]
    assert best_untouched(rows) == {}
    assert with_gains_on_untouched(rows, hits_of) == rows
