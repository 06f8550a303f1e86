"""Count what a sweep spends, over all of its commands: time by the clock, and of devices."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    EpochEnded,
    Event,
    TrunkBegan,
    TrunkEnded,
    TrunkPaused,
)
from sweeps.planning.options.prices import Prices
from trainables.storage.files import Place, append_line, read_records
from trainables.storage.typed import checked

WRITE_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one command, or all of them, have spent."""

    elapsed_s: float = 0.0
    """Seconds by the clock."""
    device_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds of whole devices that trials have taken, by the name of the device."""

    def __add__(self, other: Spent) -> Spent:
        both = Counter(self.device_s)
        both.update(other.device_s)
        return Spent(elapsed_s=self.elapsed_s + other.elapsed_s, device_s=dict(both))

    @property
    def all_device_s(self) -> float:
        """Seconds of devices of all kinds."""
        return sum(self.device_s.values())

    def cost(self, prices: Prices) -> float:
        """Price the devices' time; of a device without a price, at the highest there is."""
        found = ((prices.of(name), seconds) for name, seconds in self.device_s.items())
        return sum(
            ((prices.highest or 0.0) if price is None else price) * seconds / 3600
            for price, seconds in found
        )


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What a command has spent by the time that it wrote this."""

    command: str
    spent: Spent


class Account:
    """A watcher that counts what this command spends, on top of those before it.

    It writes that down once a minute, as trials report, and at its end: after a command that was
    killed, what it had not written is not counted.

    Args:
        path: the file of the sweep's store that has what its commands spent.
        began: when this command began, Unix time, s.
        device_share: devices that a trial takes, by variant, resolution (px) and whether it trains.
        device: names the device that cells run on now.
        clock: tells the time, s.
    """

    def __init__(
        self,
        path: Place,
        began: float,
        device_share: Callable[[str, int, bool], float],
        device: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ):
        self._path, self._began, self._clock = path, began, clock
        self._share, self._device = device_share, device
        self._command = secrets.token_hex(8)
        by_command = {line.command: line.spent for line in read_records(path, _line_from_json)}
        self.before = sum(by_command.values(), Spent())
        self._device_s: Counter[str] = Counter()
        self._trial_began: dict[str, float] = {}  # by key of the trunk
        self._cells_begun = set[str]()  # others come from the store: they were counted before
        self._written_at = clock()

    def on(self, event: Event) -> None:
        """Count the seconds of devices that an event ends."""
        match event:
            case TrunkBegan(trunk=trunk):
                self._trial_began[trunk.key] = self._clock()
            case EpochEnded(trunk=trunk, report=report) if trunk.key in self._trial_began:
                self._count(trunk.key, trunk.variant, trunk.train_res, report.device)
            case TrunkPaused(trunk=trunk) | TrunkEnded(trunk=trunk):
                self._trial_began.pop(trunk.key, None)
            case CellBegan(cell=cell):
                self._cells_begun.add(cell.key)
            case CellEnded(cell=cell, rows=rows) if rows and cell.key in self._cells_begun:
                self._cells_begun.remove(cell.key)
                share = self._share(cell.variant, cell.test_res, False)
                self._add(self._device(), share * sum(row.seconds for row in rows))
        if self._clock() - self._written_at > WRITE_EVERY_S:
            self.write()

    def _count(self, key: str, variant: str, res: int, device: str) -> None:
        now = self._clock()
        self._add(device, self._share(variant, res, True) * (now - self._trial_began[key]))
        self._trial_began[key] = now

    def _add(self, device: str, seconds: float) -> None:
        self._device_s[device] += seconds  # type: ignore[assignment] # a Counter adds any numbers

    @property
    def spent(self) -> Spent:
        """What all commands have spent by now."""
        return self.before + self._own

    @property
    def devices(self) -> float:
        """Whole devices that this command's trials have taken at a time, since it began."""
        own = self._own
        return own.all_device_s / own.elapsed_s if own.elapsed_s > 0 else 0.0

    @property
    def _own(self) -> Spent:
        elapsed_s = self._clock() - self._began
        return Spent(elapsed_s=elapsed_s, device_s=dict(self._device_s))

    def write(self) -> None:
        """Write down what this command has spent by now."""
        self._written_at = self._clock()
        append_line(self._path, _Line(command=self._command, spent=self._own))


def _line_from_json(value: Mapping[str, Any]) -> _Line:
    """Read a line; raises anything for what is none."""
    return checked(_Line(command=value["command"], spent=checked(Spent(**value["spent"]))))


def this_command_began() -> float:
    """Return when this process began, Unix time, s."""
    import psutil

    return float(psutil.Process(os.getpid()).create_time())
