"""The options of how latency is measured: a group of those of a sweep, and of choosing again."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.profiling.latency import Runtime


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """Latency, how it is measured"""

    latency_runtime: Runtime | None = None
    """What is to serve. Left out: ONNX Runtime where there is no GPU, else compiled PyTorch."""
    latency_threads: int | None = None
    """CPU threads that it computes with. Left out: the cores that this process may use."""
    latency_batch: int = 1
    """Images of one request: latency, and so --max-latency-ms, is the time of all of them."""
    throughput_batch: int = 32
    """Images at a time for the images/s of the table, at most; slow nets take fewer."""
