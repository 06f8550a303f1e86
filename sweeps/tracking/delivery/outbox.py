"""Do jobs in order, in one thread, for another side that may be away or may refuse.

Knows nothing of the jobs. Whoever puts a job in never waits for it, and is never stopped by it. A
job that fails because the other side does not answer is tried again, so that a job must change
nothing when it is done twice; one that is refused is reported and given up, and the next is done.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum

Job = Callable[[], object]
Labelled = tuple[str, Job]  # what the job is for, and the job

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0  # between tries; doubled after each
FAULT_TRIES = 4  # of a job to which the other side answers by a fault of its own
FAULTS_IN_A_ROW = 3  # given up: those that follow have one try, until one succeeds


class Verdict(Enum):
    """What an error says of the other side."""

    AWAY = "away"
    """It does not answer, or not now: another try will help some day."""
    FAULT = "fault"
    """It answers that it failed: a few more tries may help."""
    REFUSED = "refused"
    """Another try would not help."""


class Outbox:
    """Keeps a queue of jobs, and a thread that does them.

    Args:
        judge: says what an error of a job means.
        recover: called before a job is tried again, since the lost answer may have been to a
            request that did change something.
        idle_jobs: asked whenever the queue has become empty, for what jobs have deferred to be done
            together; these are done like jobs.
        notify: called with half a sentence when the other side is away, and when it is back.
        describe: says in a few words what an error is.
        on_given_up: called with the label and the error of a job that is given up.
        may_go_on: asked before each try of a job; where it says no, the outbox is stopped, and
            where it raises, it is asked again.
    """

    def __init__(
        self,
        *,
        judge: Callable[[Exception], Verdict],
        recover: Job,
        idle_jobs: Callable[[], Iterable[Labelled]],
        notify: Callable[[str], None],
        describe: Callable[[Exception], str],
        on_given_up: Callable[[str, Exception], None],
        may_go_on: Callable[[], bool] = lambda: True,
    ):
        self._judge, self._recover, self._idle_jobs = judge, recover, idle_jobs
        self._notify, self._describe, self._on_given_up = notify, describe, on_given_up
        self._may_go_on = may_go_on
        self._jobs: deque[Labelled] = deque()
        self._current: str | None = None
        self._changed = threading.Condition()
        self._busy = self._stopped = False
        self._away_since: float | None = None
        self._faults = 0  # jobs given up in a row, for faults of the other side
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, label: str, job: Job) -> None:
        """Have ``job`` done after all jobs that were put in before it; after the end, drop it."""
        with self._changed:
            if self._stopped:
                return
            self._jobs.append((label, job))
            self._busy = True
            self._changed.notify_all()

    @property
    def is_away(self) -> bool:
        """Whether the other side did not answer the last try."""
        return self._away_since is not None

    @property
    def left(self) -> list[str]:
        """List the labels of the jobs that are not done yet."""
        with self._changed:
            current = [] if self._current is None else [self._current]
            return [*current, *(label for label, _ in self._jobs)]

    def flush(self, patience_s: float) -> None:
        """Wait until the queue is empty and nothing is left to do, or the outbox is stopped.

        Raises:
            TimeoutError: the other side has been away for ``patience_s`` of this wait.
        """
        began = time.monotonic()
        with self._changed:
            while self._busy and not self._stopped:
                self._changed.wait(0.2)
                away = self._away_since
                if away is not None and time.monotonic() - max(away, began) > patience_s:
                    raise TimeoutError

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
                label, job = self._jobs.popleft()
                self._current = label
            with suppress(Exception):  # A report that fails must not end the thread.
                self._do(label, job)
            with self._changed:
                self._current = None
                is_drained = not self._jobs
            if is_drained:
                with suppress(Exception):
                    for deferred in self._idle_jobs():
                        self._do(*deferred)
                with self._changed:
                    self._busy = bool(self._jobs)
                    self._changed.notify_all()

    def _do(self, label: str, job: Job) -> None:
        """Do the job, with as many tries as it takes, or give it up."""
        pause_s, tries = FIRST_PAUSE_S, 0
        while not self._stopped:
            if not self._is_allowed():
                self.stop()
                return
            try:
                if tries:
                    self._recover()
                job()
            except Exception as error:
                tries += 1
                if self._is_hopeless(error, tries):
                    self._on_given_up(label, error)
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self._faults = 0
                self._note_back()
                return

    def _is_allowed(self) -> bool:
        """Ask whether to go on, again and again while there is no answer."""
        pause_s = FIRST_PAUSE_S
        while not self._stopped:
            try:
                return self._may_go_on()
            except Exception:  # Who else asks is told of it.
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False

    def _is_hopeless(self, error: Exception, tries: int) -> bool:
        """Note what an error says of the other side; return whether to give its job up."""
        verdict = self._judge(error)
        if verdict is Verdict.AWAY:
            self._note_away(error)
            return False
        self._note_back()
        if verdict is Verdict.REFUSED:
            return True
        if tries < (1 if self._faults >= FAULTS_IN_A_ROW else FAULT_TRIES):
            return False
        self._faults += 1
        return True

    def _note_away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._notify(f"does not answer ({self._describe(error)}); what is for it waits")

    def _note_back(self) -> None:
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            self._away_since = None
            self._notify(f"is back after {seconds:.0f} s; what waited is written")
