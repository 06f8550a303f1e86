"""Pass requests for epochs, and their reports, between a trial's process and its workers.

Imports next to nothing, so that the actor starts quickly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class EpochChannel:
    """An actor that a trial and its workers share. Epochs are counted from 1, where workers began.

    The trial calls ``request_epoch``, ``get_report``, ``request_stop`` and ``close``; the workers
    call ``wait_for_request`` and ``wait_for_stop``, the first of them ``put_report``.
    """

    def __init__(self) -> None:
        """Begin with nothing requested."""
        self._requested = 0
        self._closed = self._stopping = False
        self._reports: dict[int, str] = {}
        self._changed = asyncio.Condition()

    async def _change(self, change: Callable[[], object]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def request_epoch(self, epoch: int) -> None:
        """Have all epochs up to this one trained."""
        await self._change(lambda: setattr(self, "_requested", epoch))

    async def wait_for_request(self, epoch: int) -> bool:
        """Wait until an epoch is requested; False: it will not be.

        All workers get the same answer: the trial requests nothing more once it has called
        ``request_stop`` or ``close``.
        """
        await self._until(lambda: self._requested >= epoch or self._closed or self._stopping)
        return self._requested >= epoch

    async def put_report(self, epoch: int, report: str) -> None:
        """Hand over the report of an epoch, as JSON."""
        await self._change(lambda: self._reports.__setitem__(epoch, report))

    async def get_report(self, epoch: int) -> str:
        """Wait for the report of an epoch, and take it out: it can be had once."""
        await self._until(lambda: epoch in self._reports)
        return self._reports.pop(epoch)

    async def request_stop(self) -> None:
        """Have the workers end as soon as they can, within an epoch too."""
        await self._change(lambda: setattr(self, "_stopping", True))

    async def wait_for_stop(self) -> None:
        """Wait until the workers are to end as soon as they can."""
        await self._until(lambda: self._stopping)

    async def close(self) -> None:
        """Have the workers end where they wait for a request."""
        await self._change(lambda: setattr(self, "_closed", True))
