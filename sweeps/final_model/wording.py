"""Sentences that model card, report and terminal share."""

from __future__ import annotations

from sweeps.final_model.outcome import PairedGain
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from trainables.evaluation.class_metrics import IN_WORDS
from trainables.evaluation.confidence import Z95


def reading_sentence(cells: int) -> str:
    """Say whether the test split was read only for the choice.

    Args:
        cells: cells of the sweep that the test split has been read for so far.
    """
    if cells > 1:
        return f"Not the first reading: {repeated_readings_in_words(cells)}."
    return "Read once, after the choice."


def repeated_readings_in_words(cells: int) -> str:
    """Say what it means that the test split has been read for several cells."""
    return (
        f"this sweep has looked at the test split for {cells} cells: whoever chooses among them by "
        "what they saw there has no unseen images left"
    )


def optimism_in_words(choice: Choice) -> str:
    """Say by how much choosing the best row overstates its value on val."""
    return (
        f"choosing the best of so many rows flatters its val {IN_WORDS[choice.metric]} by about "
        f"{max(0.0, 100 * choice.optimism):.1f} points"
    )


def on_untouched_in_words(row: Row) -> str | None:
    """Say by how much a row of val is better than the untouched net; None: it is not compared."""
    if row.on_untouched is None or row.on_untouched_error is None:
        return None
    low, high = (100 * (row.on_untouched + side * Z95 * row.on_untouched_error) for side in (-1, 1))
    return (
        f"{100 * row.on_untouched:+.1f} points of top-1 above the untouched net's best row (on "
        f"val, n = {row.n}; paired, 95 % interval {low:+.1f} to {high:+.1f})"
    )


def gain_in_words(gain: PairedGain) -> str:
    """Say what tuning gained, with the standard error of the paired difference."""
    return (
        f"{100 * gain.difference:+.1f} points on the untuned trunk (paired, standard error "
        f"{100 * gain.error:.1f})"
    )
