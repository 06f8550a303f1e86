"""Compare fine-tuned rows with the best row of the same net untouched. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from sweeps.planning.savings.screen import Screen
from sweeps.selection.choice import Hits
from sweeps.selection.leaderboard import Row
from trainables.evaluation.confidence import paired_difference


def best_untouched(rows: Sequence[Row]) -> dict[str, Row]:
    """Find each variant's best untouched row on val, the cheapest of those that are equal.

    There is none where all of a variant's rows are untouched: nothing is compared with it.
    """
    val = [r for r in rows if r.split == "val"]
    tuned = {r.variant for r in val if not r.untouched}
    best: dict[str, Row] = {}
    for row in sorted(val, key=lambda r: (-r.hits1, r.gmacs)):
        if row.untouched and row.variant in tuned:
            best.setdefault(row.variant, row)
    return best


def untouched_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Find the untouched row that a row is counted from; None: there is none, or it is untouched.

    Args:
        rows: among which it is found.
    """
    return None if row.untouched else best_untouched(rows).get(row.variant)


def with_gains_on_untouched(rows: Sequence[Row], hits: Hits) -> list[Row]:
    """Fill in by how much each fine-tuned row of val is better than its variant's best untouched.

    Args:
        hits: of a row, which images of val it has right.
    """
    right = {variant: hits(row) for variant, row in best_untouched(rows).items()}
    return [
        row
        if row.split != "val" or row.untouched or row.variant not in right
        else _compared(row, paired_difference(hits(row), right[row.variant]))
        for row in rows
    ]


def with_left_out(rows: Sequence[Row], screen: Screen | None) -> list[Row]:
    """Say in the untouched rows that ranked points which of these were left out by them."""
    by_row: dict[tuple[str, int], list[str]] = defaultdict(list)
    for one in screen.left_out if screen else ():
        by_row[one.variant, one.test_res].append(f"{one.train_res}")
    return [
        replace(row, left_out=" ".join(by_row[row.variant, row.test_res]))
        if row.untouched and (row.variant, row.test_res) in by_row
        else row
        for row in rows
    ]


def _compared(row: Row, difference_and_error: tuple[float, float]) -> Row:
    difference, error = difference_and_error
    return replace(row, on_untouched=difference, on_untouched_error=error)
