"""Notice that this process is to end: SIGTERM, as a spot machine sends it before it goes."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 128 + signal.SIGTERM  # a shell's word for it


class Preempted(Exception):
    """Training was asked to end within an epoch. What it has done is in the store."""


class PreemptionGuard:
    """Ends this process on SIGTERM: at once, or once work that asked for it has been put away.

    A thread of its own waits for the signal: Python's handlers run only between two steps of the
    main thread's Python, which an actor that waits for its next call never comes to.
    """

    def __init__(self) -> None:
        self.requested = False
        self._held = False

    def install(self) -> None:
        """From here on. The main thread alone may call it; a handler set before is replaced."""
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
        threading.Thread(target=self._wait, name="notice", daemon=True).start()

    def _wait(self) -> None:
        while signal.SIGTERM not in self._signals.recv(64):
            pass
        self.requested = True
        if not self._held:
            os._exit(EXIT_CODE)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Put the end off until the block has ended, which is to be soon after a notice."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self.requested:
                os._exit(EXIT_CODE)
