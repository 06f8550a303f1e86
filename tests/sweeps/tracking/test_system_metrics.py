"""The sampler of the driver's load: at its interval, until it is stopped."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping

import pytest

from sweeps.tracking import system_metrics
from sweeps.tracking.system_metrics import SystemMetricsSampler
from tests.waiting import HANG_S


def test_samples_have_mlflows_names_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    samples: queue.Queue[tuple[Mapping[str, float], int]] = queue.Queue()
    began_ms = int(time.time() * 1000)
    sampler = SystemMetricsSampler(lambda values, at_ms: samples.put((values, at_ms)))
    (first, first_ms), (_, second_ms) = samples.get(timeout=HANG_S), samples.get(timeout=HANG_S)
    sampler.stop()
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_usage_percentage",
        "system/network_receive_megabytes",
    } <= first.keys()
    assert all(isinstance(value, (int, float)) for value in first.values())
    assert began_ms <= first_ms < second_ms <= time.time() * 1000


def test_stopped_it_takes_no_more_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    samples: list[int] = []
    SystemMetricsSampler(lambda _, at_ms: samples.append(at_ms)).stop()
    time.sleep(0.5)
    assert not samples


def test_the_interval_is_ours_unless_mlflows_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", raising=False)
    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.05)
    samples: queue.Queue[int] = queue.Queue()
    sampler = SystemMetricsSampler(lambda _, at_ms: samples.put(at_ms))
    samples.get(timeout=HANG_S)
    sampler.stop()


def test_an_interval_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "often")
    with pytest.raises(ValueError, match="MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"):
        SystemMetricsSampler(lambda *_: None)
