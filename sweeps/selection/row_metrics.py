"""Count the metrics by class of rows that a version without them has scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sweeps.selection.choice import Said
from sweeps.selection.leaderboard import Row
from trainables.evaluation.class_metrics import count_by_class


def with_class_metrics(rows: Sequence[Row], said: Said) -> list[Row]:
    """Fill balanced accuracy and macro-F1 in, where val rows lack them, from what was predicted."""
    return [
        _counted(row, said) if row.split == "val" and row.macro_f1 is None else row for row in rows
    ]


def _counted(row: Row, said: Said) -> Row:
    labels, predicted = said(row)
    counts = count_by_class(labels, predicted, 1 + max(labels.max(), predicted.max()))
    return replace(
        row,
        balanced_accuracy=float(counts.value("balanced_accuracy")),
        macro_f1=float(counts.value("macro_f1")),
    )
