"""Watchers that guard others, and that record how trunks and cells ended."""

from __future__ import annotations

from collections.abc import Callable

from sweeps.events.event_types import CellEnded, Event, TrunkEnded
from sweeps.events.failures import Failure
from sweeps.events.forecast import Forecast


class Guard:
    """A watcher that lets an event come to those after it only where a check passes.

    Args:
        check: raises where it does not.
    """

    def __init__(self, check: Callable[[], None]):
        self._check = check

    def on(self, event: Event) -> None:
        """Check."""
        self._check()


class History:
    """A watcher that keeps the end of each trunk and cell, by key, in the order of coming.

    Where an end comes twice, the first is kept, unless that was a failure.
    """

    def __init__(self) -> None:
        self.trunks: dict[str, TrunkEnded] = {}
        self.cells: dict[str, CellEnded] = {}
        self.forecast: Forecast | None = None

    def on(self, event: Event) -> None:
        """Keep the event, if it is the first end of a trunk or cell, failures aside."""
        if isinstance(event, TrunkEnded):
            before = self.trunks.get(event.trunk.key)
            if before is None or before.failure:
                self.trunks[event.trunk.key] = event
        elif isinstance(event, CellEnded):
            ended = self.cells.get(event.cell.key)
            if ended is None or ended.failure:
                self.cells[event.cell.key] = event

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The trunks and cells that failed, in the order of coming, trunks first."""
        ends: list[TrunkEnded | CellEnded] = [*self.trunks.values(), *self.cells.values()]
        return tuple(event.failure for event in ends if event.failure)
