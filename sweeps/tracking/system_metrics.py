"""Sample the driver machine's load while a sweep runs, under MLflow's own metric names.

MLflow's own monitor thread ends at the first request that fails. Only its gauges are used here,
and whoever takes the samples sends them.
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

INTERVAL_S = 10.0  # unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is set

OnSample = Callable[[Mapping[str, float], int], None]  # values by metric, and the Unix time in ms


class SystemMetricsSampler:
    """Samples cores, memory, disk, network, and GPUs where NVML sees some, in a thread.

    Args:
        on_sample: called from the thread with each sample; must not block for long.

    Raises:
        ValueError: MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is not a number.
    """

    def __init__(self, on_sample: OnSample):
        self._on_sample = on_sample
        self._interval_s = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S)
        self._stopped = threading.Event()
        self._gauges = _gauges()
        self._read()  # The first reading of a gauge that measures a rate says nothing.
        threading.Thread(target=self._sample, name="system-metrics", daemon=True).start()

    def stop(self) -> None:
        """Take no more samples."""
        self._stopped.set()

    def _sample(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._on_sample(self._read(), int(time.time() * 1000))

    def _read(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for gauge in self._gauges:
            gauge.collect_metrics()
            values |= {f"system/{k}": v for k, v in gauge.aggregate_metrics().items()}
            gauge.clear_metrics()
        return values


def _gauges() -> list[BaseMetricsMonitor]:
    gauges = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # There is no NVML, or no GPU.
        gauges.append(GPUMonitor())
    return gauges
