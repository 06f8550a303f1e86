"""The outbox: in order, once each where nothing fails, and again where the other side is away."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from sweeps.tracking import outbox
from sweeps.tracking.outbox import Outbox


class Away(Exception):
    """No answer."""


class Refused(Exception):
    """An answer that another try would not change."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 0.002)


class Far:
    """The other side: keeps what it is told in a batch, and may be away."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.put_by: list[Any] = []
        self.batches: list[int] = []
        self.told: list[str] = []
        self.recovered = 0
        self.away = False
        self.box = Outbox(
            passing=lambda error: isinstance(error, Away),
            recover=self.recover,
            idle=self.write,
            tell=self.told.append,
        )

    def recover(self) -> None:
        self.recovered += 1

    def take(self, value: Any) -> None:
        if self.away:
            raise Away
        self.put_by.append(value)

    def write(self) -> None:
        if self.away:
            raise Away
        if self.put_by:
            self.kept += self.put_by
            self.batches.append(len(self.put_by))
            self.put_by.clear()

    def put(self, value: Any) -> None:
        self.box.put(lambda: self.take(value))


def assert_true(value: bool) -> None:
    assert value


def test_all_is_done_in_order_whoever_puts_it_in() -> None:
    far = Far()

    def put_all(t: int) -> None:
        for i in range(200):
            far.put((t, i))

    threads = [threading.Thread(target=put_all, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    far.box.flush(10)
    assert sorted(far.kept) == [(t, i) for t in range(4) for i in range(200)]
    for t in range(4):
        assert [i for own, i in far.kept if own == t] == list(range(200))
    assert not far.told and far.recovered == 0


def test_what_waited_is_written_together() -> None:
    far = Far()
    gate = threading.Event()
    far.box.put(lambda: assert_true(gate.wait(10)))
    for i in range(50):
        far.put(i)
    gate.set()
    far.box.flush(10)
    assert far.kept == list(range(50)) and far.batches == [50]


@pytest.mark.parametrize("seed", range(5))
def test_it_survives_a_side_that_comes_and_goes(seed: int) -> None:
    far, rng = Far(), random.Random(seed)
    for i in range(100):
        far.away = rng.random() < 0.5
        far.put(i)
        time.sleep(0.0005)
    far.away = False
    far.box.flush(10)
    assert far.kept == list(range(100))
    assert len(far.told) % 2 == 0  # away, back
    assert bool(far.told) == bool(far.recovered)


def test_patience_is_counted_only_while_it_is_away() -> None:
    far = Far()
    far.box.put(lambda: time.sleep(0.5))  # slow is not away
    far.put("a")
    far.box.flush(0.05)
    far.away = True
    far.put("b")
    with pytest.raises(TimeoutError):
        far.box.flush(0.05)
    assert far.kept == ["a"] and far.told == ["does not answer (Away); what is for it waits"]
    far.away = False
    far.box.flush(10)
    assert far.kept == ["a", "b"] and far.told[1].startswith("is back after 0 s")


def test_what_is_refused_is_raised_once_and_the_rest_is_done() -> None:
    far = Far()

    def refuse() -> None:
        raise Refused("no such thing")

    far.put(1)
    far.box.put(refuse)
    far.put(2)
    with pytest.raises(Refused, match="no such thing"):
        far.box.flush(10)
    far.box.flush(10)
    assert far.kept == [1, 2]


def test_stopped_it_tries_no_more() -> None:
    far = Far()
    far.away = True
    far.put(1)
    time.sleep(0.05)
    far.box.stop()
    far.box._thread.join(5)
    assert not far.box._thread.is_alive() and far.kept == []
