"""The outbox: in order, once each where nothing fails, and again where the other side is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sweeps.tracking import outbox
from sweeps.tracking.outbox import Outbox
from tests.waiting import HANG_S


class AwayError(Exception):
    """No answer."""


class RefusedError(Exception):
    """An answer that another try would not change."""


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
        self.box = Outbox(
            is_transient=lambda error: isinstance(error, AwayError),
            recover=self.recover,
            on_idle=self.write,
            notify=self.messages.append,
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
        self.box.put(lambda: self.take(value))


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
    other.box.put(lambda: assert_true(gate.wait(HANG_S)))
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
    other.box.put(lambda: time.sleep(0.5))  # slow is not away
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


def test_what_is_refused_is_raised_once_and_the_rest_is_done(other: OtherSide) -> None:
    def refuse() -> None:
        raise RefusedError("no such thing")

    other.put(1)
    other.box.put(refuse)
    other.put(2)
    with pytest.raises(RefusedError, match="no such thing"):
        other.box.flush(10)
    other.box.flush(10)
    assert other.kept == [1, 2]


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
