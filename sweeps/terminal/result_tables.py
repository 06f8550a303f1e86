"""Lay out the results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.events.failures import failures_in_words
from sweeps.final_model.calibration import calibration_line
from sweeps.final_model.int8_net import INT8_FILE
from sweeps.final_model.outcome import Outcome
from sweeps.final_model.wording import (
    flattered_rows_in_words,
    gains_in_words,
    on_untouched_in_words,
    optimism_in_words,
    repeated_readings_in_words,
    row_latency_in_words,
    served_latency_in_words,
    val_in_words,
)
from sweeps.planning.cell import crop_in_words
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.serving.costs import COST_OF_FIELD
from sweeps.planning.units import three_digits
from sweeps.selection.choice import Choice, pareto_front
from sweeps.selection.leaderboard import Row, crossfit_note
from sweeps.selection.published_comparison import Comparison
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.evaluation.confidence import wilson
from trainables.fixres.arms import ARMS, UNTUNED, rank

# Columns are narrow: of words a heading breaks between.
_SHORT: dict[Metric, str] = {"balanced_accuracy": "bal. acc. %", "macro_f1": "macro F1 %"}


def summary(
    outcome: Outcome,
    compared: Sequence[Comparison] = (),
    *,
    limits: ServingOptions | None = None,
    limit: int = 8,
) -> Group:
    """Lay out the best rows, the arms, the choice, its latency, and its scores on held-out sets.

    Args:
        limits: that the choice was made by.
        limit: of the rows that are shown.
    """
    rows, choice = outcome.rows, outcome.choice
    metric = choice.metric
    val = sorted(
        (r for r in rows if r.split == "val"), key=lambda r: (-r.value(metric), r.gmacs, r.arm)
    )
    parts: list[RenderableType] = [_board(val, choice, limit)]
    if len({r.arm for r in val}) > 1:
        parts.append(_arms(val, metric))
    if compared:
        parts.append(_published(compared))
    if outcome.failures:
        parts.append(Text(f"failed   {failures_in_words(outcome.failures)}"))
    parts.append(Text(f"chosen   {choice.reason}"))
    if above := on_untouched_in_words(choice.row):
        parts.append(Text(f"gain     {above}"))
    parts.append(Text(f"val      {val_in_words(outcome)}"))
    parts.append(Text(f"optimism {optimism_in_words(choice)}"))
    if flattered := flattered_rows_in_words(val):
        parts.append(Text(f"note     {flattered}"))
    if outcome.refit:
        parts.append(Text("refit    trained again on train + val; what follows is of that net"))
    parts += latency_lines(outcome, limits or ServingOptions())
    parts += held_out_lines(outcome)
    if outcome.int8:
        parts.append(Text(f"int8     {INT8_FILE}: {outcome.int8.in_words()}"))
    if outcome.calibration is not None:
        parts.append(Text(f"sureness {calibration_line(outcome.calibration)}"))
    return Group(*parts)


def latency_lines(outcome: Outcome, limits: ServingOptions) -> list[Text]:
    """Say what the chosen net takes, and what the exported file; a missed limit is a warning."""
    lines = []
    if row_latency := row_latency_in_words(outcome):
        lines.append(Text(f"latency  {row_latency}"))
    if served := outcome.served_latency:
        missed = served.meets(limits.max_latency_ms, outcome.latency) is False
        words = served_latency_in_words(outcome, limits)
        lines.append(Text(f"{'warning: ' if missed else 'served   '}model.onnx takes {words}"))
    return lines


def held_out_lines(outcome: Outcome) -> list[Text]:
    """Write a line for each held-out set with the score of the chosen arm."""
    arm = outcome.choice.row.arm
    lines = [
        _held_out_line(row, gains_in_words(outcome, row.split), outcome.choice.metric)
        for row in outcome.rows
        if row.split != "val" and row.arm == arm
    ]
    if outcome.test_cells > 1:
        lines.append(Text(f"test     {repeated_readings_in_words(outcome.test_cells)}"))
    return lines


def _board(val: Sequence[Row], choice: Choice, limit: int) -> Table:
    board = Table(
        title=f"Best of {len(val)} rows, on val (n={val[0].n}{crossfit_note(val)})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # So that ten columns fit in 80 characters.
    )
    decides = _deciding_column(choice.metric)
    for name in (
        *("variant", "train", "test", "crop", "arm", *decides),
        *("top-1 %", "top-5 %", "GMACs", "M params"),
    ):
        _add_column(board, name)
    # Of what is repeated one row stands for all: the chosen one, or the first.
    first_of = {r.first_trunk: r for r in reversed(val)} | {choice.row.first_trunk: choice.row}
    val = [r for r in val if r.trunk == first_of[r.first_trunk].trunk]
    repeated = any(r.repeats > 1 for r in val)
    if repeated:
        board.add_column("s.d.", justify="right")
    untouched = list({r.variant: r for r in reversed(val) if r.untouched}.values())
    tuned = [r for r in val if not r.untouched]
    first = untouched if tuned else []
    # The best row of each untouched net stands above those that are counted from it.
    shown = [*reversed(first), *(tuned or val)[:limit]]
    if choice.row not in shown:
        shown.append(choice.row)
    for row in shown:
        board.add_row(
            row.variant,
            row.train_in_words,
            str(row.test_res),
            crop_in_words(row.crop_pct),
            row.arm,
            *(f"{100 * row.value(choice.metric):.1f}" for _ in decides),
            f"{100 * row.value('top1'):.1f}",
            f"{100 * row.top5:.1f}",
            f"{row.gmacs:.3g}",
            f"{row.params_m:.2f}",
            *([f"{100 * row.spread(choice.metric):.1f}" if row.repeats > 1 else ""] * repeated),
            style="bold green" if row == choice.row else "",
        )
    return board


def _deciding_column(metric: Metric) -> tuple[str, ...]:
    """Name the column of the metric that decided; none for top-1, which has one anyway."""
    return () if metric == "top1" else (_SHORT[metric],)


def _arms(val: Sequence[Row], metric: Metric) -> Table:
    """Compare the arms over all cells with the same trunk at the same resolution and crop."""
    tuned = [r for r in val if not r.untouched]
    val = tuned or val
    count = len({r.cell for r in val})
    cells = f"{count} cells" if count > 1 else "one cell"
    table = Table(
        title=f"Arms over {cells}, on val (n={val[0].n}{crossfit_note(val)}); seconds of a cell",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    untuned = {r.cell: r.own_value(metric) for r in val if r.arm == UNTUNED}
    words = IN_WORDS[metric]
    table.add_column("arm")
    for name in (f"mean {words} %", f"best {words} %", "seconds"):
        table.add_column(name, justify="right")
    if untuned:
        table.add_column(f"on {UNTUNED}", justify="right")
        table.add_column("better/worse", justify="right")
    for arm in sorted({r.arm for r in val}, key=rank):
        own = [r for r in val if r.arm == arm]
        columns = [
            arm,
            f"{100 * sum(r.own_value(metric) for r in own) / len(own):.1f}",
            f"{100 * max(r.own_value(metric) for r in own):.1f}",
            f"{sum(r.seconds for r in own) / len(own):.1f}",
        ]
        if untuned:
            gains = [100 * (r.own_value(metric) - untuned[r.cell]) for r in own]
            columns.append(f"{sum(gains) / len(gains):+.1f}" if arm != UNTUNED else "")
            better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
            columns.append(f"{better}/{worse}" if arm != UNTUNED else "")
        table.add_row(*columns)
    return table


def pareto_table(
    rows: Sequence[Row], costs: Sequence[str], chosen: Row, metric: Metric = "top1"
) -> Table:
    """Lay out the rows on the Pareto front of the metric and any of the costs, cheapest first."""
    fronts = {cost: pareto_front(rows, cost, metric) for cost in costs}
    shown = {r for front in fronts.values() for r in front} | {chosen}
    n = f"n={chosen.n}{crossfit_note(shown)}"
    table = Table(
        title=f"Pareto fronts, {IN_WORDS[metric]} on val ({n}) against cost: * is on that front",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # So that ten columns fit in 80 characters.
    )
    for name in (
        "variant",
        "train",
        "test",
        "crop",
        "arm",
        *_deciding_column(metric),
        "top-1 %",
        *(COST_OF_FIELD[cost].column for cost in costs),
    ):
        _add_column(table, name)
    for row in sorted(shown, key=lambda r: (r.gmacs, r.value(metric), rank(r.arm))):
        values = (
            f"{three_digits(getattr(row, c))}{' *' if row in fronts[c] else '  '}" for c in costs
        )
        table.add_row(
            row.variant,
            row.train_in_words,
            str(row.test_res),
            crop_in_words(row.crop_pct),
            row.arm,
            *(f"{100 * row.value(metric):.1f}" for _ in _deciding_column(metric)),
            f"{100 * row.value('top1'):.1f}",
            *values,
            style="bold green" if row == chosen else "",
        )
    return table


def _published(compared: Sequence[Comparison]) -> Table:
    table = Table(
        title="Beside the published FixEfficientNet figures (top-1 % on ImageNet val)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for name in ("train", "test", "published", "measured", "gap"):
        table.add_column(name, justify="right")
    table.add_column("arm")
    table.add_column("measured on")
    for comparison in compared:
        table.add_row(
            comparison.published.variant,
            str(comparison.published.train_res),
            str(comparison.published.test_res),
            f"{comparison.published.fix_top1:.1f}",
            f"{comparison.top1:.1f}",
            f"{comparison.gap:+.1f}",
            comparison.row.arm,
            f"{comparison.row.split}, n={comparison.row.n}",
        )
    return table


def _held_out_line(row: Row, gains: str, metric: Metric) -> Text:
    low, high = wilson(row.hits1, row.n)
    decides = f"{IN_WORDS[metric]} {100 * row.value(metric):.1f} %, " if metric != "top1" else ""
    words = (
        f"{row.split:8} {decides}top-1 {100 * row.top1:.1f} % (n={row.n}, 95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}), top-5 {100 * row.top5:.1f} %; "
    )
    if ARMS[row.arm].is_adapted:
        return Text(words + (gains or "its classifier alone was fitted"))
    return Text(words + ", ".join(["nothing was tuned", *([gains] if gains else [])]))


def _add_column(table: Table, name: str) -> None:
    """Add a column: names to the left, whole, on as many lines as they take; numbers right."""
    is_name = name in ("variant", "arm")
    table.add_column(
        name, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis"
    )
