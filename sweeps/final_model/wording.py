"""Sentences that model card, report and terminal share."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.final_model.outcome import Outcome
from sweeps.planning.options.groups import ServingOptions
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row, crossfit_note
from sweeps.selection.untouched import untouched_of
from trainables.evaluation.class_metrics import IN_WORDS
from trainables.evaluation.confidence import Z95
from trainables.fixres.arms import UNTUNED
from trainables.profiling.latency import Conditions


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
    """Say by how much val flatters what it picked, and what is to be expected on new images."""
    row = choice.row
    parts = [*(["classifier"] if row.head_tried else []), "row", "trunk"]
    parts += ["repeat"] if row.repeats > 1 else []
    picked = f"{', '.join(parts[:-1])} and {parts[-1]}"
    kept = f"{100 * row.kept_value(choice.metric):.1f} %, n={row.n}"
    words = (
        f"val picked {picked}, which flatters its own {IN_WORDS[choice.metric]} ({kept}) by about "
        f"{max(0.0, 100 * choice.optimism):.1f} points"
    )
    expected = choice.expected
    if expected is None:
        return words
    return (
        f"{words}: {100 * expected.top1:.1f} % is to be expected on new images (95 % interval "
        f"{100 * expected.low:.1f} to {100 * expected.high:.1f})"
    )


def val_in_words(outcome: Outcome) -> str:
    """Say the chosen row's value on val: what decided, of the kept classifier, and as served."""
    row, metric = outcome.choice.row, outcome.choice.metric
    words = f"{IN_WORDS[metric]} {100 * row.value(metric):.1f} %{crossfit_note([row])} (n={row.n})"
    words += " decided"
    if row.repeats > 1:
        words += (
            f"; over {row.repeats} trainings with different seeds the standard deviation is "
            f"{100 * row.spread(metric):.1f} points, and number {row.repeat + 1}, which is handed "
            f"over, has {100 * row.own_value(metric):.1f} %"
        )
    if row.crossfit_top1 is not None:
        words += f", the classifier that is kept has {100 * row.kept_value(metric):.1f} %"
    served, untuned = (outcome.val_as_served.get(arm) for arm in (row.arm, UNTUNED))
    if served is None:
        return words
    words += f"; as served, in float32, {100 * served.value(metric):.1f} %"
    if untuned is not None and row.arm != UNTUNED:
        words += f" (untuned {100 * untuned.value(metric):.1f} %)"
    return words


def flattered_rows_in_words(rows: Sequence[Row], *, sentence: bool = False) -> str:
    """Say which rows val both picked and ranks, as former versions did; "": there are none.

    Args:
        sentence: as a sentence of its own, behind another.
    """
    flattered = sum(row.is_flattered for row in rows)
    if not flattered:
        return ""
    words = (
        f"{flattered} of these rows are of a former version, without cross-fitted values: val "
        "picked their classifiers and ranks them, which flatters them"
    )
    return f" {words}." if sentence else words


def on_untouched_in_words(row: Row) -> str | None:
    """Say by how much a row of val is better than the untouched net; None: it is not compared."""
    if row.on_untouched is None or row.on_untouched_error is None:
        return None
    low, high = (100 * (row.on_untouched + side * Z95 * row.on_untouched_error) for side in (-1, 1))
    return (
        f"{100 * row.on_untouched:+.1f} points of top-1 above the untouched net's best row (on "
        f"val, n = {row.n}; paired, 95 % interval {low:+.1f} to {high:+.1f})"
    )


def untouched_in_words(outcome: Outcome) -> str:
    """Say which untouched row the choice is compared with on held-out sets; "": with none."""
    row = untouched_of(outcome.choice.row, outcome.rows)
    if row is None or not outcome.gains_on_untouched:
        return ""
    return (
        f"The untouched net is the best such row on val, {row.label}, arm {row.arm}: it was read "
        "on these sets to compare with, and not to choose from."
    )


def row_latency_in_words(outcome: Outcome) -> str:
    """Say what the chosen row's net takes, and in what; "" where it was not measured."""
    if outcome.choice.row.latency_ms is None:
        return ""
    latency = latency_conditions_in_words(outcome.latency)
    return f"{outcome.choice.row.latency_ms:.3g} ms (median; {latency})"


def latency_conditions_in_words(latency: Conditions | None) -> str:
    """Say what latencies were measured with."""
    return str(latency) if latency else "PyTorch, uncompiled, batch 1, by an earlier version"


def served_latency_in_words(outcome: Outcome, limits: ServingOptions) -> str:
    """Say what the exported file takes, and whether it keeps the limit; "" where unknown."""
    served = outcome.served_latency
    return served.in_words(limits.max_latency_ms, outcome.latency) if served else ""


def gains_in_words(outcome: Outcome, held_out_set: str) -> str:
    """Say what was gained on a held-out set, and on what; "": nothing was compared there.

    Differences come with the standard error of the paired difference.
    """
    compared = {
        "untuned trunk": outcome.gains.get(held_out_set),
        "untouched net": outcome.gains_on_untouched.get(held_out_set),
    }
    return ", ".join(
        f"{100 * gain.difference:+.1f} points on the {what} (paired, standard error "
        f"{100 * gain.error:.1f})"
        for what, gain in compared.items()
        if gain is not None
    )
