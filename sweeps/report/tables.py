"""Make the tables of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeps.final_model.outcome import Outcome
from sweeps.planning.cell import crop_in_words
from sweeps.planning.search import values_in_words
from sweeps.planning.serving.costs import SERVING_COSTS
from sweeps.planning.units import duration, price
from sweeps.report.ledger import Ledger
from sweeps.selection.leaderboard import Row, crossfit_note
from sweeps.selection.published_comparison import Comparison
from trainables.evaluation.class_metrics import IN_WORDS
from trainables.evaluation.confidence import wilson
from trainables.fixres.arms import rank
from trainables.models.frozen_norms import MIN_NORMED

MAX_ROWS = 500  # of val that the page's leaderboard shows, the chosen one beside them
_MAX_UNTOUCHED = 100  # of these, rows of untouched nets


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    name: str
    number: bool = True
    """Whether it holds numbers, which are aligned right and sorted as numbers."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A line of a table."""

    cells: tuple[str, ...]
    strong: bool = False
    """Whether it stands out, as the chosen row and sums do."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as the page's template renders it."""

    name: str
    """Describes the table to those who cannot see it."""
    columns: tuple[Column, ...]
    lines: tuple[TableRow, ...]


def percent(share: float) -> str:
    """Write a share as a percentage, without the sign."""
    return f"{100 * share:.1f}"


def signed(points: float) -> str:
    """Write a difference with its sign."""
    return f"{points:+.1f}".replace("-", "−")


def interval(row: Row) -> str:
    """Write the 95 % interval (Wilson) of a row's top-1, in percent."""
    low, high = wilson(row.hits1, row.n)
    return f"{percent(low)} to {percent(high)}"


CLASS_COLUMNS = tuple(f"{IN_WORDS[m]} %" for m in ("balanced_accuracy", "macro_f1"))


def class_metrics(row: Row) -> tuple[str, ...]:
    """Write the metrics by class of a row, in percent; empty where they were not counted."""
    found = (row.balanced_accuracy, row.macro_f1)
    return tuple("" if value is None else percent(value) for value in found)


def count_of(n: int, what: str) -> str:
    """Write a number with its noun, in the plural where needed."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _columns(*names: str, words: Iterable[str] = ()) -> tuple[Column, ...]:
    return tuple(Column(name=name, number=name not in words) for name in names)


def held_out_table(outcome: Outcome) -> Table:
    """Make the table of the scores on the held-out sets."""
    lines = []
    # What the chosen row is compared with: a column each.
    compared = {"gain (points, ± s.e.)": outcome.gains}
    if outcome.gains_on_untouched:
        compared["on untouched (points, ± s.e.)"] = outcome.gains_on_untouched
    for row in outcome.rows:
        if row.split != "val":
            chosen = row.arm == outcome.choice.row.arm
            gains = [by_set.get(row.split) if chosen else None for by_set in compared.values()]
            cells = (
                row.split,
                row.arm,
                percent(row.top1),
                interval(row),
                percent(row.top5),
                *class_metrics(row),
                f"{row.n}",
                *(f"{signed(100 * g.difference)} ± {percent(g.error)}" if g else "" for g in gains),
            )
            lines.append(TableRow(cells=cells, strong=chosen))
    names = (
        *("set", "arm", "top-1 %", "95 % interval", "top-5 %", *CLASS_COLUMNS),
        *("n", *compared),
    )
    return Table(
        name="Sets that nothing was chosen on",
        columns=_columns(*names, words=("set", "arm")),
        lines=tuple(lines),
    )


def published_table(compared: Sequence[Comparison]) -> Table | None:
    """Make the table of comparisons with the published figures; None: there are none."""
    if not compared:
        return None
    lines = tuple(
        TableRow(
            cells=(
                comparison.published.variant,
                f"{comparison.published.train_res}",
                f"{comparison.published.test_res}",
                f"{comparison.published.start_top1:.1f}",
                f"{comparison.published.fix_top1:.1f}",
                f"{comparison.top1:.1f}",
                signed(comparison.gap),
                comparison.row.arm,
            )
        )
        for comparison in compared
    )
    names = ("variant", "train px", "test px", "start", "published", "measured", "gap", "arm")
    columns = _columns(*names, words=("variant", "arm"))
    return Table(name="Beside the published figures", columns=columns, lines=lines)


def times_table(ledger: Ledger) -> Table:
    """Make the table of time spent and saved, with money where there is a price."""
    cut = f", {ledger.cut} of them cut" if ledger.cut else ""
    if ledger.frozen:
        cut += (
            f", in {ledger.frozen} batch norms stood still in some steps, as memory held less than "
            f"{MIN_NORMED} images at once"
        )
    before = ledger.predicted
    spent: list[tuple[str, float, float | None]] = [
        (
            f"phase 1: {count_of(ledger.trunks, 'trunk')}{cut}",
            ledger.trained_s,
            before.trunks_s if before else None,
        ),
        (
            f"phase 2: {count_of(ledger.cells, 'cell')}",
            ledger.adapted_s,
            before.cells_s if before else None,
        ),
        (
            "test and further sets, read after the choice",
            ledger.read_s,
            before.reading_s if before else None,
        ),
    ]
    passes = f"the net run once a cell and split ({ledger.saved_images:,} images fewer)"
    saved = [
        ("trunks cut early", ledger.undone_s),
        ("each trunk trained once for all its test resolutions", ledger.saved_trunks_s),
        (passes, ledger.saved_passes_s),
    ]
    if ledger.refit_s:
        refit = "the choice, trained again on train + val"
        spent.insert(2, (refit, ledger.refit_s, before.refit_s if before else None))
    lines = [_time_line(ledger, *line) for line in spent]
    total = sum(predicted or 0.0 for *_, predicted in spent) if before else None
    lines.append(_time_line(ledger, "spent", ledger.spent_s, total, strong=True))
    lines += [
        _time_line(ledger, f"saved (estimated): {name}", seconds)
        for name, seconds in saved
        if seconds != 0
    ]
    names = ["what", "time of trials"]
    if ledger.predicted is not None:
        names.append("predicted at the beginning")
    if ledger.price_per_hour is not None:
        names.append(f"cost, at {ledger.price_per_hour:g} an hour")
    columns = _columns(*names, words=("what",))
    return Table(name="Time of trials", columns=columns, lines=tuple(lines))


def _time_line(
    ledger: Ledger,
    name: str,
    seconds: float | None,
    predicted: float | None = None,
    *,
    strong: bool = False,
) -> TableRow:
    cells = [name, "not timed" if seconds is None else duration(seconds)]
    if ledger.predicted is not None:
        cells.append("" if predicted is None else duration(predicted))
    if ledger.price_per_hour is not None:
        money = None if seconds is None else ledger.money(seconds)
        cells.append("" if money is None else price(money))
    return TableRow(cells=tuple(cells), strong=strong)


def images_table(ledger: Ledger) -> Table:
    """Make the table of images through the net, planned and done."""
    lines = tuple(
        TableRow(cells=(name, f"{images.planned:,}", f"{images.done:,}"))
        for name, images in ledger.images.items()
    )
    columns = _columns("images through the net", "planned, at most", "done",
                       words=("images through the net",))  # fmt: skip
    return Table(name="Images through the net", columns=columns, lines=lines)


def leaderboard_table(outcome: Outcome, varied: Sequence[str] = ()) -> Table:
    """Make the table of the leaderboard: val, best first, then the held-out sets.

    Of many rows of val it has the best ``MAX_ROWS`` and the chosen one: a page with all of them
    would be slow to open.

    Top-1 is what rows compare by, cross-fitted where val picked the classifier; "kept", and all
    after it, is of the classifier that is kept. Of what is repeated it is the mean; the row's own
    and the standard deviation stand behind it. Rows of untouched nets come first. Where there are
    some, the others say what they are above the best of them.

    Args:
        varied: the hyperparameters that the search varied, which are shown, by name.
    """
    chosen = outcome.choice.row
    shown = _shown_rows(outcome)
    compared = any(r.on_untouched is not None for r in outcome.rows)
    repeated = any(r.repeats > 1 for r in outcome.rows)
    words = ("variant", "arm", "split", "repeat", "trained with", "classifier")
    names = [
        *("variant", "train px", "test px", "crop", "arm", "split", "n"),
        *("top-1 %", "kept %", "top-5 %"),
        *(("repeat", "own top-1 %", "s.d. of repeats") if repeated else ()),
        *(("on untouched",) if compared else ()),
        *CLASS_COLUMNS,
        *(cost.column for cost in SERVING_COSTS),
        *("images/s", "seconds", "epochs"),
        *(("trained with",) if varied else ()),
        "classifier",
    ]
    return Table(
        name=f"The leaderboard: top-1{crossfit_note(outcome.rows)}, and of the kept classifier",
        columns=_columns(*names, words=words),
        lines=tuple(
            TableRow(cells=_cells(r, compared, repeated, varied), strong=r == chosen) for r in shown
        ),
    )


def _shown_rows(outcome: Outcome) -> list[Row]:
    """List the rows of the page's leaderboard, in their order."""
    metric = outcome.choice.metric
    ordered = sorted(
        outcome.rows,
        key=lambda r: (r.split != "val", not r.untouched, -r.value(metric), r.gmacs, rank(r.arm)),
    )
    of_val = [r for r in ordered if r.split == "val"]
    untouched = [r for r in of_val if r.untouched]
    tuned = [r for r in of_val if not r.untouched]
    room = min(len(untouched), max(_MAX_UNTOUCHED, MAX_ROWS - len(tuned)))
    kept = {id(r) for r in [*untouched[:room], *tuned[: MAX_ROWS - room]]}
    return [r for r in ordered if r.split != "val" or id(r) in kept or r == outcome.choice.row]


def rows_left_out(outcome: Outcome) -> int:
    """Count the rows that the page's leaderboard does not show."""
    return len(outcome.rows) - len(_shown_rows(outcome))


def _on_untouched(row: Row) -> str:
    if row.on_untouched is None or row.on_untouched_error is None:
        return ""
    return f"{signed(100 * row.on_untouched)} ± {percent(row.on_untouched_error)}"


def _repeat(row: Row) -> tuple[str, ...]:
    """Write the number of a repeat, what it is worth by itself, and the spread of all of them."""
    if row.repeats == 1:
        return "", "", ""
    number = f"{row.repeat + 1} of {row.repeats}"
    return number, percent(row.own_value("top1")), percent(row.spread("top1"))


def _cells(row: Row, compared: bool, repeated: bool, varied: Sequence[str]) -> tuple[str, ...]:
    return (
        row.variant,
        row.train_in_words,
        f"{row.test_res}",
        crop_in_words(row.crop_pct),
        row.arm,
        row.split,
        f"{row.n}",
        percent(row.value("top1")),
        percent(row.top1),
        percent(row.top5),
        *(_repeat(row) if repeated else ()),
        *((_on_untouched(row),) if compared else ()),
        *class_metrics(row),
        *(cost.text(getattr(row, cost.field)) for cost in SERVING_COSTS),
        "" if row.images_s is None else f"{row.images_s:.0f}",
        f"{row.seconds:.1f}",
        f"{row.trunk_epochs}",
        *((_trained_with(row, varied),) if varied else ()),
        row.head_in_words,
    )


def _trained_with(row: Row, varied: Sequence[str]) -> str:
    """Write what the search varied of the trunk; "" where it is not known."""
    settings = dict(row.trained_with)
    return values_in_words(settings, [name for name in varied if name in settings])
