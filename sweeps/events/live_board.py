"""The leaderboard's file while the sweep is still running."""

from __future__ import annotations

from sweeps.events.event_types import CellEnded, Event
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from trainables.storage.files import Place


class LiveBoard:
    """A watcher that keeps the file up to date, cell by cell, wherever it is kept."""

    def __init__(self, *places: Place):
        self._places = places
        self._rows: list[Row] = []

    def on(self, event: Event) -> None:
        if isinstance(event, CellEnded) and event.rows:
            self._rows += event.rows
            for place in self._places:
                leaderboard.write(place, self._rows)
