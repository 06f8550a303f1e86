"""Time nets in turn, and say what their latency was measured with; imports nothing heavy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

Runtime = Literal["onnx", "openvino", "torch", "torch-compile"]
RUNTIME_NAMES: dict[Runtime, str] = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "torch-compile": "compiled PyTorch",
}
ROUNDS = 8  # turns of each net
TURN_S = 0.05  # a turn lasts no less
BULK_S = 0.25  # slow nets gain nothing from a larger batch than takes about this long

N = TypeVar("N", bound=Hashable)
Call = Callable[[], object]
Net = Callable[[int], Call]  # makes the call that runs so many images at once


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How latency is measured."""

    runtime: Runtime
    threads: int  # CPU threads that the runtime computes with
    batch: int  # images of one request
    throughput_batch: int  # most images at a time for the throughput


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a latency was measured with, and on which machine."""

    runtime: Runtime
    version: str  # of the runtime
    device: str  # name of the CPU or GPU
    precision: str
    threads: int
    batch: int  # images of one request
    throughput_batch: int  # most images at a time for the throughput

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return (
            f"{RUNTIME_NAMES[self.runtime]} {self.version}, batch {self.batch}, {threads}, "
            f"{self.precision}, {self.device}"
        )

    def comparable(self, other: Conditions) -> bool:
        """Whether both were measured on the same kind of device, with as many threads and images.

        Runtimes may differ: a limit is on the time, whatever it is spent in.
        """
        mine, theirs = ((c.device, c.threads, c.batch) for c in (self, other))
        return mine == theirs


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of a request over many runs, and the throughput."""

    latency_ms: float  # median
    low_ms: float  # 10th percentile
    high_ms: float  # 90th percentile
    runs: int
    images_s: float  # images a second in batches of up to the throughput batch, by the median


def measure_in_turns(nets: Mapping[N, Net], batch: int, throughput_batch: int) -> dict[N, Latency]:
    """Measure latency and throughput of nets that take turns.

    Args:
        nets: each given as the maker of its calls.
        batch: images of one request.
        throughput_batch: images at a time for the throughput; a slow net takes fewer, see BULK_S.
    """
    times = time_in_turns({name: net(batch) for name, net in nets.items()})
    bulks = {
        name: min(throughput_batch, max(1, int(BULK_S * batch / min(runs))))
        for name, runs in times.items()
    }
    others = {name: net(bulks[name]) for name, net in nets.items() if bulks[name] != batch}
    bulk_times = times | time_in_turns(others)
    return {
        name: _summary(runs, bulks[name] / statistics.median(bulk_times[name]))
        for name, runs in times.items()
    }


def time_in_turns(calls: Mapping[N, Call]) -> dict[N, list[float]]:
    """Time each call many times, in ROUNDS turns, so that a busy minute hits all of them alike.

    A turn lasts TURN_S or one run. It begins with a run that is not counted, as the caches hold
    what the call before left there; where a run takes longer than a turn, that is so only of the
    first.

    Returns:
        The seconds of each run, in order.
    """
    times: dict[N, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # allocates, and chooses kernels
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            if not times[name] or times[name][-1] < TURN_S:
                call()
            times[name] += _turn(call)
    return times


def _turn(call: Call) -> list[float]:
    times: list[float] = []
    while sum(times) < TURN_S:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _summary(times: list[float], images_s: float) -> Latency:
    ordered = sorted(times)
    tenth = len(ordered) // 10
    return Latency(
        latency_ms=1e3 * statistics.median(ordered),
        low_ms=1e3 * ordered[tenth],
        high_ms=1e3 * ordered[-1 - tenth],
        runs=len(ordered),
        images_s=images_s,
    )
