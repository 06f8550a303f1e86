"""Do jobs in order, in one thread, for another side that may be away: until each is done.

Knows nothing of the jobs. Whoever puts a job in never waits for it. A job that fails because the
other side does not answer is tried again, so that a job must change nothing when it is done twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0  # between tries; doubled after each


def does_not_answer(error: Exception) -> str:
    """Say in half a sentence that the other side is away."""
    return f"does not answer ({type(error).__name__})"


class Outbox:
    """Keeps a queue of jobs, and a thread that does them.

    Args:
        is_transient: whether another try may help after this error of a job.
        recover: called before a job is tried again, since the lost answer may have been to a
            request that did change something.
        on_idle: done like a job whenever the queue has become empty, for what jobs have deferred
            to be done together.
        notify: called with half a sentence when the other side is away, and when it is back.
        describe: says in half a sentence why a job is to be tried again.
    """

    def __init__(
        self,
        *,
        is_transient: Callable[[Exception], bool],
        recover: Job,
        on_idle: Job,
        notify: Callable[[str], None],
        describe: Callable[[Exception], str] = does_not_answer,
    ):
        self._is_transient, self._recover = is_transient, recover
        self._on_idle, self._notify, self._describe = on_idle, notify, describe
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._busy = self._stopped = False
        self._away_since: float | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have ``job`` done after all jobs that were put in before it."""
        with self._changed:
            self._jobs.append(job)
            self._busy = True
            self._changed.notify_all()

    def flush(self, patience_s: float) -> None:
        """Wait until the queue is empty and nothing is left to do.

        Raises:
            TimeoutError: the other side has been away for ``patience_s`` of this wait.
            Exception: the first that a job raised and that is not transient, once; the jobs after
                it are done all the same.
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
        """Start no more jobs and end the thread; jobs that are left are dropped."""
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
            self._do(job)
            with self._changed:
                is_drained = not self._jobs
            if is_drained:
                self._do(self._on_idle)
                with self._changed:
                    self._busy = bool(self._jobs)
                    self._changed.notify_all()

    def _do(self, job: Job) -> None:
        """Do the job, with as many tries as it takes, or note the error that ends it."""
        pause_s, is_retry = FIRST_PAUSE_S, False
        while not self._stopped:
            try:
                if is_retry:
                    self._recover()
                job()
            except Exception as error:
                if not self._is_transient(error):
                    self._error = self._error or error
                    return
                self._note_away(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=pause_s)
                pause_s, is_retry = min(2 * pause_s, LONGEST_PAUSE_S), True
            else:
                self._note_back()
                return

    def _note_away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._notify(f"{self._describe(error)}; what is for it waits")

    def _note_back(self) -> None:
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            self._away_since = None
            self._notify(f"is back after {seconds:.0f} s; what waited is written")
