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

EVERY_S = 30.0  # at least, between two writes
SHARE = 0.02  # of the time, at most, goes into writing


class LiveBoard:
    """A watcher that writes the leaderboard now and then, as cells end.

    Between two writes are 30 s, or more where writing takes more than a fiftieth of the time: the
    file is written whole, so that one for each cell would cost the square of the cells. What a
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
        self._is_pending = self._is_replaying = False
        self._next_at = clock()

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
                self._is_pending = True
            case _:
                return
        if not self._is_replaying and self._clock() >= self._next_at:
            self._write(self._paths)

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
        """Write all rows, if any are not written yet."""
        if not self._is_pending:
            return
        began = self._clock()
        added = [row for rows in list(self._rows.values())[self._in_table :] for row in rows]
        whole = pa.concat_tables([self._table, leaderboard.to_table(added)])
        self._table, self._in_table = whole.combine_chunks(), len(self._rows)
        for path in paths:
            leaderboard.write_table(path, self._table)
        self._is_pending = False
        ended = self._clock()
        self._next_at = ended + max(EVERY_S, (ended - began) / SHARE)
