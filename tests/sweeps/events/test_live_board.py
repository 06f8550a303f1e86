"""The leaderboard's file while cells end: seldom written, always whole, never behind at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned
from sweeps.events.live_board import (
    AWAY_GROWTH,
    AWAY_S,
    AWAY_SHARE,
    EVERY_S,
    EVERY_SHARE,
    SHARE,
    LiveBoard,
)
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row, read
from tests.factories import HYPER, a_row, plan_of, spec_with
from trainables.errors import ReplacedError

PLAN = plan_of(spec_with(variants=("b0",), train_res=(64,), test_res=tuple(range(64, 864, 8))))
TRUNK = PLAN.trunk(PLAN.points[0], HYPER)
CELLS = [PLAN.cell(TRUNK, 6, res, 1.0) for res in PLAN.grid.test_res]
ENDS = [
    CellEnded(cell=cell, rows=(a_row(i % 50, test_res=cell.test_res, cell=cell.key),))
    for i, cell in enumerate(CELLS)
]
ROWS = [row for end in ENDS for row in end.rows]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are written, in order."""
    written: list[Path] = []
    write = leaderboard.write_table

    def note(path: Path, table: object) -> None:
        written.append(path)
        write(path, table)

    monkeypatch.setattr(leaderboard, "write_table", note)
    return written


def worked_out(live: LiveBoard, clock: Clock, seconds: float, ends: list[CellEnded]) -> None:
    for end in ends:
        live.on(CellBegan(cell=end.cell))
        clock.now += seconds
        live.on(end)


def ended_by(error: BaseException | None, live: LiveBoard, clock: Clock) -> None:
    """All cells end at one moment, and then the sweep."""
    with live.completed():
        worked_out(live, clock, 0.0, ENDS)
        if error is not None:
            raise error


def test_in_a_long_sweep_writes_are_a_share_of_the_time_apart(
    tmp_path: Path, writes: list[Path]
) -> None:
    clock = Clock()
    live = LiveBoard(tmp_path / "leaderboard.parquet", clock=clock)
    worked_out(live, clock, 0.0, ENDS[:1])
    clock.now += 100 * EVERY_S / EVERY_SHARE
    live.on(ENDS[1])
    written = len(writes)
    clock.now += 99 * EVERY_S
    live.on(ENDS[2])
    assert len(writes) == written
    clock.now += 2 * EVERY_S
    live.on(ENDS[3])
    assert len(writes) == written + 1


def test_the_first_cell_that_ends_is_on_all_boards_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    live = LiveBoard(*paths, clock=Clock())
    live.on(CellEnded(cell=CELLS[0], rows=(), error="lost"))
    assert not paths[0].exists()
    live.on(ENDS[0])
    assert [read(path) for path in paths] == [ROWS[:1]] * 2


@pytest.mark.parametrize("seconds", [0.1, 1.0, 7.0, 29.0, 31.0, 500.0])
def test_between_two_writes_is_half_a_minute_and_a_slow_sweep_is_never_behind(
    tmp_path: Path, writes: list[Path], seconds: float
) -> None:
    clock, path = Clock(), tmp_path / "leaderboard.parquet"
    live = LiveBoard(path, clock=clock)
    for number, end in enumerate(ENDS, start=1):
        worked_out(live, clock, seconds, [end])
        behind = number - len(read(path))
        assert 0 <= behind * seconds < EVERY_S
    assert len(writes) <= 1 + 100 * seconds / EVERY_S


@pytest.mark.parametrize("seconds", [1.0, 31.0, 700.0])
def test_a_store_is_sent_some_ten_times_the_board_and_is_never_far_behind(
    tmp_path: Path, writes: list[Path], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock, here, there = Clock(), tmp_path / "a.parquet", tmp_path / "b.parquet"
    sent: list[int] = []
    write = leaderboard.write_table

    def counted(path: Path, table: pa.Table) -> None:
        if path == there:
            sent.append(len(table))
        write(path, table)

    monkeypatch.setattr(leaderboard, "write_table", counted)
    live = LiveBoard(here, there, clock=clock)
    for number, end in enumerate(ENDS, start=1):
        worked_out(live, clock, seconds, [end])
        behind = number - len(read(there))
        waited = max(AWAY_S, AWAY_SHARE * number * seconds)
        missed = max(EVERY_S, min(waited, (1 + AWAY_GROWTH * number) * seconds))
        assert behind * seconds <= missed
    by_time = min(100 * seconds / AWAY_S, (1 + AWAY_SHARE) / AWAY_SHARE)
    assert sum(sent) <= 100 * (1 + by_time) + 100 * (1 + AWAY_GROWTH) / AWAY_GROWTH
    assert writes.count(there) <= writes.count(here)


def test_what_the_store_holds_is_written_once_when_the_next_cell_begins(
    tmp_path: Path, writes: list[Path]
) -> None:
    clock, path = Clock(), tmp_path / "leaderboard.parquet"
    live = LiveBoard(path, clock=clock)
    live.on(CellsPlanned(cells=tuple(CELLS)))
    for end in ENDS[:-1]:
        live.on(end)
        clock.now += EVERY_S
    assert not writes  # nor is a board with all of them replaced by one with the first
    live.on(CellBegan(cell=CELLS[-1]))
    assert read(path) == ROWS[:-1] and len(writes) == 1


def test_where_writing_takes_long_it_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, spent = Clock(), 0.0

    def write(*_: object) -> None:
        nonlocal spent
        clock.now += 4.0
        spent += 4.0

    monkeypatch.setattr(leaderboard, "write_table", write)
    live, began = LiveBoard(tmp_path / "leaderboard.parquet", clock=clock), clock.now
    worked_out(live, clock, 20.0, ENDS)
    assert 4.0 < spent <= 4.0 + SHARE * (clock.now - began)


def test_rows_become_columns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each write would cost as much as all cells before it."""
    converted: list[Row] = []
    to_record: Callable[[Row], dict[str, object]] = leaderboard.to_record

    def noted(row: Row) -> dict[str, object]:
        converted.append(row)
        return to_record(row)

    monkeypatch.setattr(leaderboard, "to_record", noted)
    clock = Clock()
    live = LiveBoard(tmp_path / "leaderboard.parquet", clock=clock)
    with live.completed():
        worked_out(live, clock, 10.0, ENDS)
    assert converted == ROWS


def test_a_cell_that_is_made_again_has_its_last_rows(tmp_path: Path) -> None:
    path, clock = tmp_path / "leaderboard.parquet", Clock()
    live, again = LiveBoard(path, clock=clock), a_row(49, test_res=64, cell=CELLS[0].key)
    worked_out(live, clock, 40.0, ENDS[:3])
    worked_out(live, clock, 40.0, [CellEnded(cell=CELLS[0], rows=(again,))])
    assert read(path) == [again, *ROWS[1:3]]


def test_at_the_end_all_rows_are_on_all_boards(tmp_path: Path, writes: list[Path]) -> None:
    paths, clock = [tmp_path / "a.parquet", tmp_path / "b.parquet"], Clock()
    live = LiveBoard(*paths, clock=clock)
    with live.completed():
        worked_out(live, clock, 0.0, ENDS)
    assert [read(path) for path in paths] == [ROWS] * 2
    assert writes == 2 * paths
    with live.completed():
        pass
    assert writes == 2 * paths  # nothing was new


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_sweep_leaves_all_rows_on_this_machine(
    tmp_path: Path, error: type[BaseException]
) -> None:
    here, there, clock = tmp_path / "a.parquet", tmp_path / "b.parquet", Clock()
    live = LiveBoard(here, there, clock=clock)
    with pytest.raises(error):
        ended_by(error(), live, clock)
    assert read(here) == ROWS and read(there) == ROWS[:1]


def test_a_driver_that_was_replaced_writes_no_board(tmp_path: Path) -> None:
    path, clock = tmp_path / "leaderboard.parquet", Clock()

    def check() -> None:
        raise ReplacedError("another sweep goes on.")

    live = LiveBoard(path, check=check, clock=clock)
    for error, seen in ((KeyboardInterrupt(), KeyboardInterrupt), (None, ReplacedError)):
        with pytest.raises(seen):
            ended_by(error, live, clock)
        assert read(path) == ROWS[:1]
