"""How long a net takes to answer, measured on the device at hand."""

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

WARMUP_RUNS, MIN_TIMED_RUNS, MIN_TIMED_S = (
    2,
    3,
    0.25,
)  # runs before, runs timed at least, and for how long
THROUGHPUT_BATCH = 32  # for throughput, at most


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one image, ms: median, and 10th and 90th percentile of ``runs``; and throughput."""

    latency_ms: float
    low_ms: float
    high_ms: float
    runs: int
    images_s: float  # images a second in batches of up to BATCH, by the median


def measure(variant: str, res: int, classes: int) -> Latency:
    """The variant at ``res`` px, warm, as this package runs it: channels last, bf16 on a GPU.

    The pixels are on the device already; the weights do not matter.
    """
    device = pick_device()
    model = backbone.to_device(backbone.build(variants.get(variant), classes), device).eval()
    single = sorted(_times(model, 1, res, device))
    batch = min(
        THROUGHPUT_BATCH, max(1, int(MIN_TIMED_S / single[0]))
    )  # slow nets gain nothing from more
    many = statistics.median(_times(model, batch, res, device))
    tenth = len(single) // 10
    return Latency(
        latency_ms=1e3 * statistics.median(single),
        low_ms=1e3 * single[tenth],
        high_ms=1e3 * single[-1 - tenth],
        runs=len(single),
        images_s=batch / many,
    )


@torch.inference_mode()
def _times(model: Net, batch: int, res: int, device: torch.device) -> list[float]:
    """Seconds of each run."""
    x = torch.zeros(batch, 3, res, res, device=device).to(memory_format=torch.channels_last)
    times: list[float] = []
    warm = WARMUP_RUNS
    while len(times) < MIN_TIMED_RUNS or sum(times) < MIN_TIMED_S:
        began = time.perf_counter()
        with autocast(device):
            model(x)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if warm > 0:
            warm -= 1
        else:
            times.append(time.perf_counter() - began)
    return times


def device_name() -> str:
    """What was measured on, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, bf16"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {torch.get_num_threads()} threads, float32"
