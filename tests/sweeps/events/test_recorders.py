"""Ends of trunks and cells: each kept once, and the leaderboard's file written as cells end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sweeps.events.event_types import CellEnded, TrunkBegan, TrunkEnded
from sweeps.events.recorders import History, LiveBoard
from sweeps.selection.leaderboard import read
from tests.factories import HYPER, a_row, plan_of, spec_with
from trainables.training.trunk import TrunkStatus

PLAN = plan_of(spec_with(variants=("b0",), train_res=(64, 96), test_res=(96, 128)))
TRUNKS = [PLAN.trunk(point, HYPER) for point in PLAN.points]
ENDED = [TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=()) for trunk in TRUNKS]
CELLS = [
    CellEnded(cell=PLAN.cell(trunk, 6, res, 1.0), rows=(a_row(test_res=res),))
    for trunk in TRUNKS
    for res in (96, 128)
]


def test_what_ended_is_kept_by_key_in_the_order_of_coming() -> None:
    history = History()
    for event in (ENDED[1], CELLS[3], CELLS[0], ENDED[0]):
        history.on(event)
    assert list(history.trunks.items()) == [(e.trunk.key, e) for e in (ENDED[1], ENDED[0])]
    assert list(history.cells.items()) == [(e.cell.key, e) for e in (CELLS[3], CELLS[0])]


def test_an_end_that_comes_twice_is_kept_once() -> None:
    history = History()
    for trunk in (*ENDED, *ENDED[::-1]):
        history.on(replace(trunk))
    for cell in (*CELLS, *CELLS[::-1]):
        history.on(replace(cell))
    assert list(history.trunks.values()) == ENDED
    assert list(history.cells.values()) == CELLS


def test_what_only_began_or_goes_on_is_not_kept() -> None:
    history = History()
    history.on(TrunkBegan(trunk=TRUNKS[0]))
    assert not history.trunks and not history.cells


def test_each_cell_that_ends_is_on_the_board_at_once(tmp_path: Path) -> None:
    plan, path = plan_of(spec_with()), tmp_path / "leaderboard.parquet"
    copy = tmp_path / "copy.parquet"
    trunk, live = plan.trunk(plan.points[0], HYPER), LiveBoard(path, copy)
    rows = [a_row(30, test_res=64), a_row(40, test_res=96)]
    cells = [plan.cell(trunk, 6, r.test_res, 1.0) for r in rows]
    live.on(CellEnded(cell=cells[0], rows=(), error="lost"))
    assert not path.exists()
    for i, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        live.on(CellEnded(cell=cell, rows=(row,)))
        assert read(path) == read(copy) == rows[: i + 1]
