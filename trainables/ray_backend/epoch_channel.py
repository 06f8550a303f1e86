"""Between a trial's process and its workers. An actor: it starts quickly, as it imports little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class EpochChannel:
    """Epochs asked for, and their reports. They are counted from where the workers began."""

    def __init__(self) -> None:
        self._asked = 0
        self._closed = self._warned = False
        self._reports: dict[int, str] = {}
        self._changed = asyncio.Condition()

    async def _change(self, change: Callable[[], object]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def ask(self, epoch: int) -> None:
        await self._change(lambda: setattr(self, "_asked", epoch))

    async def asked(self, epoch: int) -> bool:
        """Wait for the epoch to be asked for; False: it will not be. All workers hear the same: who
        warns them or closes asks for nothing more.
        """
        await self._until(lambda: self._asked >= epoch or self._closed or self._warned)
        return self._asked >= epoch

    async def report(self, epoch: int, report: str) -> None:
        await self._change(lambda: self._reports.__setitem__(epoch, report))

    async def report_of(self, epoch: int) -> str:
        await self._until(lambda: epoch in self._reports)
        return self._reports.pop(epoch)

    async def warn(self) -> None:
        await self._change(lambda: setattr(self, "_warned", True))

    async def warned(self) -> None:
        """Wait until the workers are to end, wherever they are."""
        await self._until(lambda: self._warned)

    async def close(self) -> None:
        await self._change(lambda: setattr(self, "_closed", True))
