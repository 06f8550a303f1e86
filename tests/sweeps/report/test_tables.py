"""The tables of the report say what rows and ledger say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.report.tables import (
    MAX_ROWS,
    count_of,
    held_out_table,
    images_table,
    interval,
    leaderboard_table,
    percent,
    published_table,
    rows_left_out,
    signed,
    times_table,
)
from sweeps.selection.leaderboard import Row
from sweeps.selection.repeats import with_repeats_counted
from tests.factories import a_row, outcome_of
from tests.sweeps.report.finished_sweep import (
    CHOSEN,
    ON_UNTOUCHED,
    ROWS,
    TEST,
    an_outcome,
    spent,
)


def test_numbers_are_written_as_in_the_text() -> None:
    assert percent(0.1234) == "12.3"
    assert (signed(1.25), signed(-1.25)) == ("+1.2", "−1.2")
    assert (count_of(1, "trunk"), count_of(1200, "trunk")) == ("1 trunk", "1,200 trunks")
    assert interval(a_row(50, 100)) == "40.4 to 59.6"


def test_each_held_out_row_is_there_and_the_chosen_arm_stands_out() -> None:
    table = held_out_table(an_outcome())
    assert [line.cells[1] for line in table.lines[:2]] == [row.arm for row in TEST]
    assert [line.strong for line in table.lines] == [True, False, True]
    assert table.lines[0].cells[-1] == "+6.7 ± 3.1" and table.lines[1].cells[-1] == ""
    assert all(len(line.cells) == len(table.columns) for line in table.lines)


def test_what_the_chosen_arm_has_above_the_untouched_net_is_a_column_of_each_set() -> None:
    table = held_out_table(an_outcome(gains_on_untouched=ON_UNTOUCHED))
    assert [line.cells[-2:] for line in table.lines] == [
        ("+6.7 ± 3.1", "+26.7 ± 5.2"),
        ("", ""),
        ("−10.0 ± 20.0", "+30.0 ± 7.0"),
    ]
    assert all(len(line.cells) == len(table.columns) for line in table.lines)
    untuned = held_out_table(an_outcome(gains={}, gains_on_untouched=ON_UNTOUCHED))
    assert untuned.lines[0].cells[-2:] == ("", "+26.7 ± 5.2")


def test_the_leaderboard_has_val_first_and_the_best_above() -> None:
    table = leaderboard_table(an_outcome())
    assert len(table.lines) == len(ROWS)
    splits = [line.cells[5] for line in table.lines]
    assert splits == sorted(splits, key=lambda split: split != "val")
    (chosen,) = [line for line in table.lines if line.strong]
    assert chosen.cells[3:5] == ("1.0", CHOSEN.arm) and percent(CHOSEN.top1) in chosen.cells
    assert all(len(line.cells) == len(table.columns) for line in table.lines)


def test_a_repeat_has_its_number_its_own_value_and_the_spread() -> None:
    own = [a_row(h, 100, trunk=f"t{i}", repeat=i, configuration="t0" * (i > 0)) for i, h in
           enumerate((70, 80))]  # fmt: skip
    rows = with_repeats_counted([*own, a_row(60, 100, trunk="u")])
    table = leaderboard_table(outcome_of(rows))
    at = [column.name for column in table.columns].index("repeat")
    assert [line.cells[at : at + 3] for line in table.lines] == [
        ("1 of 2", "70.0", "7.1"),
        ("2 of 2", "80.0", "7.1"),
        ("", "", ""),
    ]
    assert [line.cells[7] for line in table.lines] == ["75.0", "75.0", "60.0"]
    assert "mean of 2 repeats" in table.name
    assert "repeat" not in [column.name for column in leaderboard_table(an_outcome()).columns]


def many_rows(count: int = 3_000, untouched: int = 200) -> list[Row]:
    """Rows of val, each with other hits; the last ones are of untouched nets."""
    return [
        replace(
            CHOSEN, cell=f"{i}", top1=i / count, latency_ms=None, untouched=i >= count - untouched
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("untouched", [0, 3, 200])
def test_of_many_rows_the_best_are_shown_and_the_chosen_one(untouched: int) -> None:
    rows = many_rows(untouched=untouched)
    chosen = rows[7]  # far behind, and cheap
    outcome = an_outcome(chosen, rows=[*rows, *TEST])
    table = leaderboard_table(outcome)
    of_val = [line for line in table.lines if line.cells[5] == "val"]
    assert len(of_val) == MAX_ROWS + 1 and len(table.lines) == MAX_ROWS + 1 + len(TEST)
    assert rows_left_out(outcome) == len(rows) - MAX_ROWS - 1
    assert [line.strong for line in of_val].count(True) == 1 and of_val[-1].strong
    shown = [line.cells[7] for line in of_val[:-1] if line.cells[1] != "untouched"]
    best = [row for row in reversed(rows) if not row.untouched][: len(shown)]
    assert shown == [percent(row.top1) for row in best]
    assert len(shown) == min(3_000 - untouched, MAX_ROWS - min(untouched, 100))


def test_of_few_rows_none_is_left_out() -> None:
    outcome = an_outcome(rows=[*ROWS, *many_rows(MAX_ROWS - len(ROWS), 150)])
    assert rows_left_out(outcome) == 0
    assert len(leaderboard_table(outcome).lines) == len(outcome.rows)


def test_what_the_search_varied_is_shown_where_it_is_known() -> None:
    known = replace(CHOSEN, trained_with=(("lr", 0.0012345), ("dropout", True)))
    rows = [known if r == CHOSEN else r for r in ROWS]
    table = leaderboard_table(an_outcome(known, rows=rows), ("lr", "dropout"))
    place = [c.name for c in table.columns].index("trained with")
    (strong,) = [line for line in table.lines if line.strong]
    assert strong.cells[place] == "lr 0.0012345, dropout on"
    assert {line.cells[place] for line in table.lines if not line.strong} == {""}
    assert all(len(line.cells) == len(table.columns) for line in table.lines)


def test_untouched_rows_come_first_and_the_others_are_told_against_them() -> None:
    compared = replace(CHOSEN, on_untouched=0.123, on_untouched_error=0.0456)
    untouched = replace(CHOSEN, untouched=True, train_res=224, top1=0.1, cell="u")
    rows = [compared if r == CHOSEN else r for r in ROWS]
    table = leaderboard_table(an_outcome(compared, rows=[*rows, untouched]))
    assert table.lines[0].cells[1] == "untouched"
    place = [c.name for c in table.columns].index("on untouched")
    (strong,) = [line for line in table.lines if line.strong]
    assert strong.cells[place] == "+12.3 ± 4.6" and table.lines[0].cells[place] == ""
    assert all(len(line.cells) == len(table.columns) for line in table.lines)
    plain = leaderboard_table(an_outcome())
    assert "on untouched" not in [c.name for c in plain.columns]


@pytest.mark.parametrize("price", [None, 3.0])
def test_times_have_money_only_with_a_price(price: float | None) -> None:
    for ledger in (spent(price), replace(spent(price), saved_passes_s=None)):
        table = times_table(ledger)
        assert len(table.columns) == (2 if price is None else 3)
        assert all(len(line.cells) == len(table.columns) for line in table.lines)
        assert [line.cells[0] for line in table.lines if line.strong] == ["spent"]
    assert any("not timed" in line.cells for line in table.lines)


def test_images_are_planned_and_done() -> None:
    ledger = spent()
    for line in images_table(ledger).lines:
        passes = ledger.images[line.cells[0]]
        assert line.cells[1:] == (f"{passes.planned:,}", f"{passes.done:,}")


def test_without_published_figures_there_is_no_table() -> None:
    assert published_table(()) is None
