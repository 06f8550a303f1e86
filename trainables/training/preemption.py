"""React to SIGTERM, which a spot machine's owner sends before the machine is taken away."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 128 + signal.SIGTERM  # as a shell reports a process that the signal ended


class PreemptedError(Exception):
    """Training stopped within an epoch, as its process is to end. Its work is in the store."""


class PreemptionGuard:
    """Ends this process on SIGTERM: at once, or after the block of :meth:`deferred` that it is in.

    A thread of its own waits for the signal. Python's signal handlers run only while the main
    thread executes Python code, and an actor that waits for its next call does not.

    Attributes:
        requested: whether SIGTERM has come. Work in a deferred block asks it, and ends soon.
    """

    def __init__(self) -> None:
        """Do nothing yet: the signal has its former effect until :meth:`install`."""
        self.requested = False
        self._deferring = False

    def install(self) -> None:
        """Handle SIGTERM from now on, in place of any handler that was set before.

        Raises:
            ValueError: this is not the main thread.
        """
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        # Without a handler Python would not write the signal to the socket.
        signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
        threading.Thread(target=self._wait, name="preemption", daemon=True).start()

    def _wait(self) -> None:
        while signal.SIGTERM not in self._signals.recv(64):
            pass
        self.requested = True
        if not self._deferring:
            os._exit(EXIT_CODE)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Put the end off until the block has ended, whether well or by an exception."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self.requested:
                os._exit(EXIT_CODE)
