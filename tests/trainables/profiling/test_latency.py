"""Nets take turns, and what their times say is what they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from trainables.machine import cpu_name
from trainables.profiling import latency
from trainables.profiling.latency import (
    Conditions,
    measure_in_turns,
    time_in_turns,
)

CONDITIONS = Conditions(
    runtime="onnx", version="1.2.3", device="A CPU", precision="float32", threads=2, batch=1,
    throughput_batch=32,
)  # fmt: skip


class Clock:
    """A clock that moves by what is done: nets of given seconds an image."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        self.ran: list[tuple[str, int]] = []
        self.busy: Callable[[float], float] = lambda now: 1.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def net(self, name: str, seconds: float) -> latency.Net:
        def at(batch: int) -> latency.Call:
            def call() -> None:
                self.ran.append((name, batch))
                self.now += seconds * batch * self.busy(self.now)

            return call

        return at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_times_are_those_of_the_nets(clock: Clock) -> None:
    nets = {"slow": clock.net("slow", 0.02), "fast": clock.net("fast", 0.002)}
    found = measure_in_turns(nets, 1, 8)
    for name, seconds in (("slow", 0.02), ("fast", 0.002)):
        one = found[name]
        assert one.latency_ms == pytest.approx(1e3 * seconds)
        assert one.low_ms == pytest.approx(one.high_ms) == pytest.approx(one.latency_ms)
        assert one.images_s == pytest.approx(1 / seconds)
        assert one.runs >= latency.ROUNDS
    assert {batch for _, batch in clock.ran} == {1, 8}


def test_a_busy_time_hits_all_nets_alike(clock: Clock) -> None:
    """Ten times slower for the second half: one net after the other would show it in one alone."""
    nets = {name: clock.net(name, 0.005) for name in "abcd"}
    time_in_turns({n: at(1) for n, at in nets.items()})
    half = clock.now / 2
    clock.now = 0.0
    clock.busy = lambda now: 10.0 if now > half else 1.0
    times = time_in_turns({n: at(1) for n, at in nets.items()})
    slow = {name: sum(t > 0.01 for t in own) / len(own) for name, own in times.items()}
    assert min(slow.values()) > 0 and max(slow.values()) - min(slow.values()) < 0.1


def test_what_finds_cold_caches_is_not_counted(clock: Clock) -> None:
    """The first run after another net takes longer, and is in nobody's times."""

    def net(name: str) -> latency.Call:
        def call() -> None:
            cold = not clock.ran or clock.ran[-1][0] != name
            clock.ran.append((name, 1))
            clock.now += 0.03 if cold else 0.01

        return call

    times = time_in_turns({name: net(name) for name in "ab"})
    assert all(t == pytest.approx(0.01) for own in times.values() for t in own)


def test_slow_nets_run_once_a_turn_and_in_no_larger_batch(clock: Clock) -> None:
    found = measure_in_turns({"slow": clock.net("slow", 3.0)}, 1, 32)["slow"]
    assert found.runs == latency.ROUNDS
    assert {batch for _, batch in clock.ran} == {1}
    assert len(clock.ran) == latency.ROUNDS + 3  # two to warm up, and one before the first turn
    assert found.images_s == pytest.approx(1 / 3)


def test_a_request_may_be_of_several_images(clock: Clock) -> None:
    found = measure_in_turns({"a": clock.net("a", 0.001)}, 4, 4)["a"]
    assert found.latency_ms == pytest.approx(4.0) and found.images_s == pytest.approx(1000)
    assert {batch for _, batch in clock.ran} == {4}


def test_the_spread_is_that_of_the_runs(clock: Clock) -> None:
    """Every fifth run takes twice as long: the median does not, the 90th percentile does."""
    clock.busy = lambda now: 2.0 if len(clock.ran) % 5 == 0 else 1.0
    found = measure_in_turns({"a": clock.net("a", 0.001)}, 1, 1)["a"]
    assert found.low_ms == found.latency_ms == pytest.approx(1.0)
    assert found.high_ms == pytest.approx(2.0)


def test_conditions_are_said_in_words() -> None:
    assert str(CONDITIONS) == "ONNX Runtime 1.2.3, batch 1, 2 threads, float32, A CPU"
    assert "1 thread," in str(replace(CONDITIONS, threads=1))


@pytest.mark.parametrize(
    ("change", "comparable"),
    [
        ({}, True),
        ({"runtime": "torch", "version": "9"}, True),
        ({"device": "Another CPU"}, False),
        ({"threads": 1}, False),
        ({"batch": 8}, False),
    ],
)
def test_times_compare_on_one_machine_alone(change: dict[str, object], comparable: bool) -> None:
    other = replace(CONDITIONS, **change)  # type: ignore[arg-type]
    assert CONDITIONS.comparable(other) == other.comparable(CONDITIONS) == comparable


def test_the_machine_is_named() -> None:
    assert cpu_name()
