"""The right of this process to write to a sweep, held while it runs, and asked before it writes."""

from __future__ import annotations

import _thread
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sweeps.output import lease
from sweeps.output.lease import Lease, this_driver
from trainables.errors import ReplacedError
from trainables.storage.fenced_log import FencedLog, fenced_log
from trainables.storage.files import Place
from trainables.storage.object_store import RemotePath

log = logging.getLogger("fixres")


class Driver:
    """This process as the driver of a sweep.

    Args:
        held: its lease on an object store; None: all is in a folder, whose lock it has.
    """

    def __init__(self, held: Lease | None = None):
        self._lease = held
        self._journal: FencedLog | None = None

    def open_journal(self, path: Place) -> FencedLog:
        """Open the journal, once: from then on every driver before this one is refused there.

        Raises:
            ReplacedError: another driver has taken over.
        """
        if self._journal is None:
            journal = fenced_log(path)
            journal.open(self._lease.epoch if self._lease else 0, this_driver())
            if self._lease is not None:
                self._lease.renew()  # else a driver that stood still would refuse the next one
            self._journal = journal
        return self._journal

    def check(self) -> None:
        """Make sure that no other driver has taken over; to be called before anything is written.

        Raises:
            ReplacedError: another has.
        """
        if self._lease is not None:
            self._lease.check()
        elif self._journal is not None:
            self._journal.check()

    def may_write(self) -> bool:
        """Whether no other driver has taken over: see :meth:`check`."""
        try:
            self.check()
        except ReplacedError:
            return False
        return True


@contextmanager
def driving(
    path: RemotePath,
    say: Callable[[str], None],
    beat_s: float = lease.BEAT_S,
    dead_s: float = lease.DEAD_S,
) -> Iterator[Driver]:
    """Hold the lease at ``path`` while the block runs; where another takes it over, end the block.

    Args:
        say: shows a line to the user.
        beat_s: seconds between two renewals.
        dead_s: seconds without a renewal after which a lease is taken over.

    Raises:
        UserError: a running driver holds it.
        ReplacedError: another driver has taken it over.
    """
    held = lease.take(path, say, beat_s, dead_s)
    over, replaced = threading.Event(), threading.Event()
    is_main = threading.current_thread() is threading.main_thread()

    def renew() -> None:
        while not (over.wait(beat_s) or held.is_lost):
            try:
                held.renew()
            except ReplacedError:
                replaced.set()
                if is_main and not over.is_set():
                    # It may be waiting for hours, and ends cleanly by this signal: see
                    # interrupt_on_sigterm.
                    _thread.interrupt_main(signal.SIGTERM)
            except Exception as error:  # the store's, which whoever writes to it is told of
                log.warning("%s could not be renewed (%s)", path, error)

    renewal = threading.Thread(target=renew, name="lease", daemon=True)
    renewal.start()
    try:
        yield Driver(held)
    except KeyboardInterrupt:
        if replaced.is_set():
            held.check()  # raises, and says by whom
        raise
    finally:
        over.set()
        renewal.join(timeout=beat_s)
        held.give_back()
