"""The leaderboard's file grows with the sweep."""

from __future__ import annotations

from pathlib import Path

from sweeps.events.event_types import CellEnded
from sweeps.events.recorders import LiveBoard
from sweeps.selection.leaderboard import read
from tests.factories import HYPER, a_row, plan_of, spec_with


def test_each_cell_that_ends_is_on_the_board_at_once(tmp_path: Path) -> None:
    plan, path = plan_of(spec_with()), tmp_path / "leaderboard.parquet"
    trunk, live = plan.trunk(plan.points[0], HYPER), LiveBoard(path)
    rows = [a_row(30, test_res=64), a_row(40, test_res=96)]
    cells = [plan.cell(trunk, 6, r.test_res) for r in rows]
    live.on(CellEnded(cell=cells[0], rows=(), error="lost"))
    assert not path.exists()
    for i, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        live.on(CellEnded(cell=cell, rows=(row,)))
        assert read(path) == rows[: i + 1]
