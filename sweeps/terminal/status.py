"""How a sweep stands: on its panel, and in a file for who asks from another terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.events.event_types import Event
from sweeps.output.folder import is_in_use
from sweeps.output.location import CHOICE, STATUS
from sweeps.planning.units import duration
from trainables.errors import UserError
from trainables.storage.files import read_record, write_json
from trainables.storage.typed import checked

WRITE_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a sweep stands."""

    written: float
    """Unix time, s."""
    phase: str
    """What is counted: "trunks", or once these have all ended "cells"."""
    done: int
    total: int
    waiting: int
    """Those that have not begun."""
    at_rungs: int
    """Trunks that wait at rungs, for others to be compared with."""
    elapsed_s: float
    """Since the command began."""
    left_s: float | None
    """That are expected to be left; None: not known yet."""
    most_left_s: float | None
    """That are left if no more trunks are cut."""
    running: tuple[str, ...]
    """What runs, in words."""
    best: str
    """The best of what is there, in words."""

    @property
    def counts_in_words(self) -> str:
        """Say what waits, and how long it takes."""
        at_rungs = f", {self.at_rungs} at rungs" if self.at_rungs else ""
        left = left_in_words(self.left_s, self.most_left_s)
        return f"{self.waiting} wait{at_rungs}; {duration(self.elapsed_s)} so far, {left}"


def left_in_words(expected_s: float | None, most_s: float | None) -> str:
    """Say how long it will take yet."""
    if expected_s is None or most_s is None:
        return "time left not yet known"
    if most_s < 1:
        return "nothing left"
    if most_s > 1.2 * expected_s:
        return f"about {duration(expected_s)} left, {duration(most_s)} at most"
    return f"about {duration(expected_s)} left"


class StatusFile:
    """A watcher that writes how the sweep stands, soon after each event, at most every two seconds.

    Args:
        path: of the file.
        status: tells how it stands; also called from another thread.
    """

    def __init__(self, path: Path, status: Callable[[], Status | None]):
        self._path, self._status = path, status
        self._next_at = time.monotonic()
        self._timer: threading.Timer | None = None  # writes what comes too soon for another file

    def on(self, _: Event) -> None:
        """Write it, now or in two seconds."""
        if self._timer is not None:
            return
        wait_s = self._next_at - time.monotonic()
        if wait_s <= 0:
            self._write()
        else:
            self._timer = threading.Timer(wait_s, self._write)
            self._timer.daemon = True
            self._timer.start()

    def _write(self) -> None:
        self._timer = None
        with suppress(OSError):  # a disk that is full is told where results are written
            if (status := self._status()) is not None:
                write_json(self._path, status)
        self._next_at = time.monotonic() + WRITE_EVERY_S


def show_status(out: Path, say: Callable[[str], None]) -> None:
    """Say how the sweep of a folder stands.

    Raises:
        UserError: there is none.
    """
    status = read_record(out / STATUS, _from_json)
    running = is_in_use(out)
    if status is None:
        if not running:
            raise UserError(f"--status {out} holds no sweep that has begun: name its --out.")
        say(f"{out} prepares: images, weights and plan come first")
        return
    ago = duration(max(0.0, time.time() - status.written))
    if (out / CHOICE).exists():
        state = "goes on after a first choice" if running else "is finished"
    else:
        state = "runs" if running else "is stopped; the same command continues"
    say(f"{out} {state}; this is as of {ago} ago")
    say(f"{status.phase} {status.done}/{status.total}, {status.counts_in_words}")
    if running:
        for name in status.running:
            say(f"  {name}")
    say(f"  best so far: {status.best}")
    if not running and (out / CHOICE).exists():
        say(f"select_best.py --sweep {out} shows what was chosen")


def _from_json(value: Mapping[str, Any]) -> Status:
    """Read a status from its JSON; raises anything for what is none."""
    return checked(Status(**{**value, "running": tuple(value["running"])}))
