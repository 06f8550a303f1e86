"""Work for somebody who may be away: done in order, in a thread of its own, until it is done.

Knows nothing of the work. Whoever puts a job in never waits for it; a job that fails because the
other side does not answer is tried again, and so must change nothing when it is done twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0


class Outbox:
    """One thread, one queue."""

    def __init__(
        self,
        *,
        passing: Callable[[Exception], bool],
        recover: Job,
        idle: Job,
        tell: Callable[[str], None],
    ):
        """
        Args:
            passing: whether an error may pass if the job is tried again.
            recover: done before a job is tried again: what an answer that was lost has changed.
            idle: done whenever nothing is left to do: what jobs have put by to be done together.
            tell: told in a sentence when the other side is away, and when it is back.
        """
        self._passing, self._recover, self._idle, self._tell = passing, recover, idle, tell
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._busy = self._stopped = False
        self._away_since: float | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have ``job`` done after all that was put in before it."""
        with self._changed:
            self._jobs.append(job)
            self._busy = True
            self._changed.notify_all()

    def flush(self, patience_s: float) -> None:
        """Wait until all is done.

        Raises:
            TimeoutError: the other side has been away for ``patience_s`` of this wait.
            Exception: what a job raised that would not have passed; the jobs after it are done.
        """
        began = time.monotonic()
        with self._changed:
            while self._busy:
                self._changed.wait(0.2)
                away = self._away_since
                if away is not None and time.monotonic() - max(away, began) > patience_s:
                    raise TimeoutError
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def stop(self) -> None:
        """Do no more; what is left undone is dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._jobs or self._stopped):
                    self._changed.wait()
                if self._stopped:
                    return
                job = self._jobs.popleft()
            self._insist(job)
            with self._changed:
                drained = not self._jobs
            if drained:
                self._insist(self._idle)
                with self._changed:
                    self._busy = bool(self._jobs)
                    self._changed.notify_all()

    def _insist(self, job: Job) -> None:
        """Do the job, however often it takes."""
        pause, again = FIRST_PAUSE_S, False
        while not self._stopped:
            try:
                if again:
                    self._recover()
                job()
            except Exception as error:
                if not self._passing(error):
                    self._error = self._error or error
                    return
                self._note_away(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=pause)
                pause, again = min(2 * pause, LONGEST_PAUSE_S), True
            else:
                self._note_back()
                return

    def _note_away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._tell(f"does not answer ({type(error).__name__}); what is for it waits")

    def _note_back(self) -> None:
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            self._away_since = None
            self._tell(f"is back after {seconds:.0f} s; what waited is written")
