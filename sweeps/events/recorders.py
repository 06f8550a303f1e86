"""What a sweep's trials have come to, kept for its report."""

from __future__ import annotations

from sweeps.events.event_types import CellEnded, Event, TrunkEnded
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from trainables.storage.files import Place


class History:
    """A watcher that keeps what ended, by key, in the order of coming; told twice it keeps one."""

    def __init__(self) -> None:
        self.trunks: dict[str, TrunkEnded] = {}
        self.cells: dict[str, CellEnded] = {}

    def on(self, event: Event) -> None:
        if isinstance(event, TrunkEnded):
            self.trunks.setdefault(event.trunk.key, event)
        elif isinstance(event, CellEnded):
            self.cells.setdefault(event.cell.key, event)


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
