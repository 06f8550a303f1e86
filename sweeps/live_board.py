"""The leaderboard's file while the sweep is still running."""

from __future__ import annotations

from pathlib import Path

from sweeps import leaderboard
from sweeps.events import CellEnded, Event
from sweeps.leaderboard import Row


class LiveBoard:
    """A watcher that keeps the file up to date, cell by cell."""

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[Row] = []

    def on(self, event: Event) -> None:
        if isinstance(event, CellEnded) and event.rows:
            self._rows += event.rows
            leaderboard.write(self._path, self._rows)
