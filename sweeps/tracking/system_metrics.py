"""What the driver's machine is doing, sampled while a sweep runs, under MLflow's own names.

MLflow's monitor gives up at the first request that fails, so that only its gauges are used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

INTERVAL_S = 10.0

Take = Callable[[Mapping[str, float], int], None]  # values by metric, and the Unix time in ms


class SystemMetricsSampler:
    """Cores, memory, disk, network, and GPUs where NVML sees some."""

    def __init__(self, take: Take):
        self._take = take
        self._interval = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S)
        self._over = threading.Event()
        self._gauges = _gauges()
        self._read()  # the first reading of a rate is nothing
        threading.Thread(target=self._watch, name="machine", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self._take(self._read(), int(time.time() * 1000))

    def _read(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for gauge in self._gauges:
            gauge.collect_metrics()
            values |= {f"system/{k}": v for k, v in gauge.aggregate_metrics().items()}
            gauge.clear_metrics()
        return values


def _gauges() -> list[BaseMetricsMonitor]:
    gauges = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no NVML, or no GPU
        gauges.append(GPUMonitor())
    return gauges
