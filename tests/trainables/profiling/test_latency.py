"""Latencies are plausible, and of the right net."""

import time
from typing import Any

import torch

from trainables.models import backbone
from trainables.profiling import latency
from trainables.profiling.latency import MAX_THROUGHPUT_BATCH, device_name, measure


def test_what_is_measured_is_the_net_at_the_resolution(monkeypatch):
    seen = []
    build = backbone.build

    def building(variant, classes):
        net = build(variant, classes)
        net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        return net

    monkeypatch.setattr(backbone, "build", building)
    monkeypatch.setattr(latency, "MIN_TIMED_S", 0.02)
    measured = measure("lite0", 32, 7)
    assert {shape[1:] for shape in seen} == {(3, 32, 32)}
    assert {1} < {shape[0] for shape in seen} | {2} and max(
        s[0] for s in seen
    ) <= MAX_THROUGHPUT_BATCH
    assert 0 < measured.low_ms <= measured.latency_ms <= measured.high_ms
    assert measured.runs >= latency.MIN_TIMED_RUNS and measured.images_s > 0


def test_warm_runs_are_not_counted(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 1000)
    monkeypatch.setattr(latency, "MIN_TIMED_S", 0.0045)  # of runs of a millisecond each
    calls: list[torch.Tensor] = []
    net: Any = calls.append
    times = latency._run_times(net, 4, 32, torch.device("cpu"))
    assert len(times) == 5 and len(calls) == 5 + latency.WARMUP_RUNS
    assert calls[0].shape == (4, 3, 32, 32)


def test_the_device_is_named():
    assert "threads" in device_name() or torch.cuda.is_available()
