"""Sentences that card, report and terminal share."""

from __future__ import annotations

from sweeps.final_model.outcome import PairedGain
from sweeps.selection.choice import Choice


def first_look(cells: int) -> str:
    """Whether what was read of test is this sweep's only reading: a sentence."""
    if cells > 1:
        return f"Not the first reading: {looks_in_words(cells)}."
    return "Read once, after the choice."


def looks_in_words(cells: int) -> str:
    """What readings beyond the first mean."""
    return (
        f"this sweep has looked at the test split for {cells} cells: whoever chooses among them by "
        "what they saw there has no unseen images left"
    )


def optimism_in_words(choice: Choice) -> str:
    return (
        f"choosing the best of so many rows flatters its val top-1 by about "
        f"{max(0.0, 100 * choice.optimism):.1f} points"
    )


def gain_in_words(gain: PairedGain) -> str:
    """With the standard error of the paired difference."""
    return (
        f"{100 * gain.difference:+.1f} points on the untuned trunk (paired, standard error "
        f"{100 * gain.error:.1f})"
    )
