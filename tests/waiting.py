"""Waits for states, never for seconds: tests are right on however slow a machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

# Only a hang meets it: the slowest thing that is waited for takes minutes on a busy machine.
HANG_S = 1800.0


class Ending(Protocol):
    """A process that may end, as those of ``subprocess``."""

    def poll(self) -> int | None: ...


def wait_until(
    moment: Callable[[], object],
    *,
    process: Ending | None = None,
    every_s: float = 0.05,
    what: str = "the moment",
) -> None:
    """Return when ``moment`` is true.

    Raises:
        AssertionError: ``process`` ended before, or nothing happened for so long that it hangs.
    """
    until = time.monotonic() + HANG_S
    while not moment():
        assert process is None or process.poll() is None, f"the process ended before {what} came"
        assert time.monotonic() < until, f"{what} never came"
        time.sleep(every_s)
