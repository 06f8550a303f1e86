"""The outbox: in order, once each where nothing fails, and again where the other side is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sweeps.tracking.delivery import outbox
from sweeps.tracking.delivery.outbox import Outbox, Verdict
from tests.waiting import HANG_S, wait_until


class AwayError(Exception):
    """No answer."""


class FaultError(Exception):
    """An answer that the other side failed."""


class RefusedError(Exception):
    """An answer that another try would not change."""


VERDICTS = {
    AwayError: Verdict.AWAY,
    FaultError: Verdict.FAULT,
    RefusedError: Verdict.REFUSED,
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 0.002)


class OtherSide:
    """Keeps what it gets in batches, and may be away."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.deferred: list[Any] = []
        self.batches: list[int] = []
        self.messages: list[str] = []
        self.recovered = 0
        self.away = False
        self.given_up: list[tuple[str, str]] = []
        self.box = Outbox(
            judge=lambda error: VERDICTS[type(error)],
            recover=self.recover,
            idle_jobs=lambda: [("deferred", self.write)],
            notify=self.messages.append,
            describe=lambda error: type(error).__name__,
            on_given_up=lambda label, error: self.given_up.append((label, str(error))),
        )

    def recover(self) -> None:
        self.recovered += 1

    def take(self, value: Any) -> None:
        if self.away:
            raise AwayError
        self.deferred.append(value)

    def write(self) -> None:
        if self.away:
            raise AwayError
        if self.deferred:
            self.kept += self.deferred
            self.batches.append(len(self.deferred))
            self.deferred.clear()

    def put(self, value: Any) -> None:
        self.box.put(str(value), lambda: self.take(value))


@pytest.fixture
def other() -> Iterator[OtherSide]:
    other = OtherSide()
    yield other
    other.box.stop()


def assert_true(value: bool) -> None:
    assert value


def test_all_is_done_in_order_whoever_puts_it_in(other: OtherSide) -> None:
    def put_all(t: int) -> None:
        for i in range(200):
            other.put((t, i))

    threads = [threading.Thread(target=put_all, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.box.flush(10)
    assert sorted(other.kept) == [(t, i) for t in range(4) for i in range(200)]
    for t in range(4):
        assert [i for own, i in other.kept if own == t] == list(range(200))
    assert not other.messages and other.recovered == 0


def test_what_waited_is_written_together(other: OtherSide) -> None:
    gate = threading.Event()
    other.box.put("", lambda: assert_true(gate.wait(HANG_S)))
    for i in range(50):
        other.put(i)
    gate.set()
    other.box.flush(10)
    assert other.kept == list(range(50)) and other.batches == [50]


@pytest.mark.parametrize("seed", range(5))
def test_it_survives_a_side_that_comes_and_goes(other: OtherSide, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(100):
        other.away = rng.random() < 0.5
        other.put(i)
        time.sleep(0.0005)
    other.away = False
    other.box.flush(10)
    assert other.kept == list(range(100))
    assert len(other.messages) % 2 == 0  # away, back
    assert bool(other.messages) == bool(other.recovered)


def test_patience_is_counted_only_while_it_is_away(other: OtherSide) -> None:
    other.box.put("", lambda: time.sleep(0.5))  # slow is not away
    other.put("a")
    other.box.flush(0.05)
    other.away = True
    other.put("b")
    with pytest.raises(TimeoutError):
        other.box.flush(0.05)
    assert other.kept == ["a"]
    assert other.messages == ["does not answer (AwayError); what is for it waits"]
    other.away = False
    other.box.flush(10)
    assert other.kept == ["a", "b"] and other.messages[1].startswith("is back after 0 s")


class Answers:
    """A job that fails by these errors, one after the other, and then is done."""

    def __init__(self, *errors: Exception):
        self.errors, self.tries = list(errors), 0

    def __call__(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)


def test_what_is_refused_is_reported_and_the_rest_is_done(other: OtherSide) -> None:
    refused = Answers(RefusedError("no such thing"))
    other.put(1)
    other.box.put("a", refused)
    other.put(2)
    other.box.flush(10)
    assert other.kept == [1, 2] and refused.tries == 1
    assert other.given_up == [("a", "no such thing")] and not other.messages


def test_a_fault_is_tried_a_few_times_and_no_more(other: OtherSide) -> None:
    passing = Answers(*[FaultError("500")] * (outbox.FAULT_TRIES - 1))
    lasting = Answers(*[FaultError("500")] * 100)
    other.box.put("passing", passing)
    other.box.put("lasting", lasting)
    other.put(1)
    other.box.flush(10)
    assert passing.tries == lasting.tries == outbox.FAULT_TRIES
    assert other.given_up == [("lasting", "500")] and other.kept == [1]


def test_where_all_is_faulty_each_job_has_one_try(other: OtherSide) -> None:
    jobs = [Answers(*[FaultError("500")] * 100) for _ in range(outbox.FAULTS_IN_A_ROW + 2)]
    for job in jobs:
        other.box.put("x", job)
    after = Answers(*[FaultError("500")] * (outbox.FAULT_TRIES - 1))
    other.box.put("y", lambda: None)  # It succeeds: the next has all its tries.
    other.box.put("z", after)
    other.box.flush(10)
    assert [job.tries for job in jobs] == [outbox.FAULT_TRIES] * outbox.FAULTS_IN_A_ROW + [1, 1]
    assert after.tries == outbox.FAULT_TRIES and len(other.given_up) == len(jobs)


def test_an_error_that_cannot_be_judged_or_reported_stops_nothing(other: OtherSide) -> None:
    other.box.put("a", Answers(KeyError("of no known kind")))
    other.put(1)
    other.box.flush(10)
    assert other.kept == [1]


def test_what_is_not_done_yet_is_listed(other: OtherSide) -> None:
    other.away = True
    for value in ("a", "b"):
        other.put(value)
    wait_until(lambda: other.box.is_away)
    assert other.box.left == ["a", "b"]
    other.away = False
    other.box.flush(10)
    assert other.box.left == []


def test_after_the_end_nothing_is_waited_for(other: OtherSide) -> None:
    other.away = True
    other.put("a")
    other.box.stop()
    other.put("b")
    other.box.flush(HANG_S)
    assert other.kept == []


def test_stopped_it_tries_no_more() -> None:
    before = set(threading.enumerate())
    other = OtherSide()
    (worker,) = set(threading.enumerate()) - before
    other.away = True
    other.put(1)
    time.sleep(0.05)
    other.box.stop()
    worker.join(HANG_S)
    assert not worker.is_alive()
    other.away = False
    assert other.kept == []


def test_nothing_is_done_once_this_side_may_not_go_on() -> None:
    may_go_on, done, unanswered = True, [], [1, 2]

    def asked() -> bool:
        if unanswered:
            raise AwayError(unanswered.pop())
        return may_go_on

    box = Outbox(
        judge=lambda _: Verdict.AWAY,
        recover=lambda: None,
        idle_jobs=list,
        notify=pytest.fail,
        describe=str,
        on_given_up=lambda label, error: pytest.fail(f"{label}: {error}"),
        may_go_on=asked,
    )
    box.put("a", lambda: done.append(1))
    box.flush(HANG_S)
    may_go_on = False
    box.put("b", lambda: done.append(2))
    box.flush(HANG_S)  # ends, as the box is stopped
    box.put("c", lambda: done.append(3))
    assert done == [1]
