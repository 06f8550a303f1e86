"""A watcher that keeps the leaderboard's file up to date while cells end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pyarrow as pa

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned, Event
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from trainables.storage.files import Place

# At least, between two writes: seconds, and a share of the time so far. The file is written whole:
# were it written as often in long sweeps as in short ones, bytes would grow with the square of the
# cells.
EVERY_S, EVERY_SHARE = 30.0, 0.002
SHARE = 0.02  # of the time, at most, goes into writing
# A store gets the file when there are so many more cells, as a share, or after so much time.
AWAY_GROWTH = 0.1
AWAY_S, AWAY_SHARE = 600.0, 0.02


class LiveBoard:
    """A watcher that writes the leaderboard now and then, as cells end.

    Between two writes are 30 s, and after four hours a 500th of the time since the start; or more
    where writing takes more than a fiftieth of the time. To a store it is sent when there are a
    tenth more cells, or ten minutes have gone and a fiftieth of the time since the start. What a
    store holds already comes in one go, and is written once, when the next cell begins.

    Args:
        paths: the files that the leaderboard is written to; the first one is on this machine.
        check: raises where they are not to be written any more; asked where no event has been.
        clock: tells the time, s.
    """

    def __init__(
        self,
        *paths: Place,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._paths, self._check, self._clock = paths, check, clock
        self._rows: dict[str, tuple[Row, ...]] = {}  # by the key of the cell
        # Rows become columns once: the table has those of the first cells, and lacks the last ones.
        self._table, self._in_table = leaderboard.to_table([]), 0
        self._is_replaying = False
        self._ends = 0  # of cells, those that came again too
        self._written: dict[Place, int] = {}  # how many of them each file has
        self._began = self._next_at = self._next_away_at = clock()
        self._cells_away = 0

    def on(self, event: Event) -> None:
        """Add the rows of a cell that has ended, and write all rows so far if it is time.

        Where a cell ends twice, as one that is made again does, its last rows are kept.
        """
        match event:
            case CellsPlanned(cells=cells):
                self._is_replaying = self._is_replaying or bool(cells)
                return
            case CellBegan():
                self._is_replaying = False
            case CellEnded(cell=cell, rows=rows) if rows:
                if cell.key in self._rows:
                    self._table, self._in_table = leaderboard.to_table([]), 0
                self._rows[cell.key] = rows
                self._ends += 1
            case _:
                return
        now = self._clock()
        if not self._is_replaying and now >= self._next_at:
            grown = len(self._rows) >= (1 + AWAY_GROWTH) * self._cells_away
            self._write(self._paths if grown or now >= self._next_away_at else self._paths[:1])

    @contextmanager
    def completed(self) -> Iterator[None]:
        """Have all rows written when the block ends; where it fails, on this machine alone."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # Why it failed is told, not this.
                self._check()
                self._write(self._paths[:1])
            raise
        self._check()
        self._write(self._paths)

    def _write(self, paths: Sequence[Place]) -> None:
        """Write all rows to those of the files that lack some."""
        paths = [path for path in paths if self._written.get(path, 0) < self._ends]
        if not paths:
            return
        began = self._clock()
        added = [row for rows in list(self._rows.values())[self._in_table :] for row in rows]
        whole = pa.concat_tables([self._table, leaderboard.to_table(added)])
        self._table, self._in_table = whole.combine_chunks(), len(self._rows)
        for path in paths:
            leaderboard.write_table(path, self._table)
            self._written[path] = self._ends
        ended = self._clock()
        elapsed = ended - self._began
        self._next_at = ended + max(EVERY_S, EVERY_SHARE * elapsed, (ended - began) / SHARE)
        if set(paths) & set(self._paths[1:]):
            self._next_away_at = ended + max(AWAY_S, AWAY_SHARE * elapsed)
            self._cells_away = len(self._rows)
