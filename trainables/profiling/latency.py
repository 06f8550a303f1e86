"""Measure how long a net takes to answer on this machine's device."""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.models.device import autocast, pick_device

WARMUP_RUNS = 2
MIN_TIMED_RUNS = 3
MIN_TIMED_S = 0.25
MAX_THROUGHPUT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time for one image over many runs, and the throughput."""

    latency_ms: float  # median
    low_ms: float  # 10th percentile
    high_ms: float  # 90th percentile
    runs: int
    images_s: float  # images a second in batches of up to MAX_THROUGHPUT_BATCH, by the median


def measure(variant: str, res: int, classes: int) -> Latency:
    """Time the variant at ``res`` px as this package runs it: channels last, bf16 on a GPU.

    Warm runs, random weights, and pixels that are on the device already.
    """
    device = pick_device()
    model = backbone.to_device(backbone.build(variants.get(variant), classes), device).eval()
    times = sorted(_run_times(model, 1, res, device))
    # Slow nets gain nothing from a larger batch.
    batch = min(MAX_THROUGHPUT_BATCH, max(1, int(MIN_TIMED_S / times[0])))
    batch_time = statistics.median(_run_times(model, batch, res, device))
    tenth = len(times) // 10
    return Latency(
        latency_ms=1e3 * statistics.median(times),
        low_ms=1e3 * times[tenth],
        high_ms=1e3 * times[-1 - tenth],
        runs=len(times),
        images_s=batch / batch_time,
    )


@torch.inference_mode()
def _run_times(model: Net, batch: int, res: int, device: torch.device) -> list[float]:
    """Time forwards of a batch, after the warm-up: seconds of each."""
    x = torch.zeros(batch, 3, res, res, device=device).to(memory_format=torch.channels_last)
    times: list[float] = []
    warmup_left = WARMUP_RUNS
    while len(times) < MIN_TIMED_RUNS or sum(times) < MIN_TIMED_S:
        began = time.perf_counter()
        with autocast(device):
            model(x)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if warmup_left > 0:
            warmup_left -= 1
        else:
            times.append(time.perf_counter() - began)
    return times


def device_name() -> str:
    """Name the device and the precision that :func:`measure` uses here."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, bf16"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        cpus = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = cpus[0] if cpus else name
    return f"{name}, {torch.get_num_threads()} threads, float32"
