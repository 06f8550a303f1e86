"""The ranges of options that are numbers, and which options are intervals or sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainables.transforms.resolution import MIN_RES

INF = math.inf
MAX_THREADS, MAX_BATCH = 1024, 4096  # beyond them, memory ends before anything is measured


@dataclass(frozen=True)
class Range:
    """The range of a number, or of each number of a tuple."""

    low: float
    high: float = INF
    open_low: bool = False  # low itself is out
    open_high: bool = False  # high itself is out

    def admits(self, value: float) -> bool:
        """Say whether a value is finite and within the range."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if self.high == INF:
            return f"more than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        ends = (f"above {self.low:g}" if self.open_low else f"from {self.low:g}") + " "
        return ends + (f"to below {self.high:g}" if self.open_high else f"to {self.high:g}")


# The range of each option that is a number or holds numbers; None and words are not checked. Those
# of reading images are checked by ReadOptions.
RANGE_OF_OPTION = {
    "cache_side": Range(MIN_RES),
    "train_res": Range(MIN_RES),  # Below it, the last feature map has one position.
    "test_res": Range(MIN_RES),
    "screen": Range(0, 1, open_low=True),
    "epochs": Range(0),
    "cascade_epochs": Range(1),
    "cascade_samples": Range(1),
    "samples": Range(1),
    "repeat": Range(1),
    "batch_size": Range(2),  # Batch norm in training mode needs two images for a variance.
    "warmup_epochs": Range(0),
    "head_only_epochs": Range(0),
    "lr": Range(0, open_low=True),
    "weight_decay": Range(0, open_low=True),
    "label_smoothing": Range(0, 1, open_high=True),
    "ema_decay": Range(0, 1, open_high=True),
    "drop_path": Range(0, 1, open_high=True),
    "layer_decay": Range(0, 1, open_low=True),
    "clip_grad": Range(0),
    "crop_scale": Range(0, 1, open_low=True),
    "hflip": Range(0, 1),
    "mixup": Range(0),
    "cutmix": Range(0),
    "random_erasing": Range(0, 1),
    "grace_epochs": Range(1),
    "reduction": Range(2),
    "survivors": Range(1),
    "test_crop_pct": Range(0, 1, open_low=True),
    "views": Range(1),
    "map_gb": Range(0, open_low=True),
    "head_lr": Range(0, open_low=True),
    "head_smoothing": Range(0, 1, open_high=True),
    "head_weight_decay": Range(0),
    "head_epochs": Range(1),
    "head_patience": Range(1),
    "head_batch_size": Range(1),
    "max_params_m": Range(0, open_low=True),
    "max_gmacs": Range(0, open_low=True),
    "max_memory_mb": Range(0, open_low=True),
    "max_latency_ms": Range(0, open_low=True),
    "min_top1": Range(0, 1, open_low=True),
    "latency_threads": Range(1, MAX_THREADS),
    "latency_batch": Range(1, MAX_BATCH),
    "throughput_batch": Range(1, MAX_BATCH),
    "link_days": Range(0, 7),  # S3 signs no longer validity.
    "seed": Range(0, 2**31 - 1),
    "concurrency": Range(1),
    "cpus_per_trial": Range(1),
    "gpus_per_trial": Range(0),
    "gpu_memory_gb": Range(0, open_low=True),
    "workers_per_trial": Range(1),
    "cluster_gpus": Range(1),
    "max_minutes_per_trial": Range(0, open_low=True),
    "budget_hours": Range(0, open_low=True),
    "budget_gpu_hours": Range(0, open_low=True),
    "budget_cost": Range(0, open_low=True),
}
# Pairs of a lower and an upper end.
INTERVAL_OPTIONS = ("lr", "weight_decay", "label_smoothing", "crop_scale")
# Numbers whose ranges are searched on a log scale, unless a file says otherwise.
LOG_OPTIONS = ("lr", "weight_decay")
# Tuples that hold at least one value, and each value once.
SET_OPTIONS = (
    *("variants", "train_res", "test_res", "arms", "test_crop_pct"),
    *("head_lr", "head_smoothing", "head_weight_decay", "head_optimizer"),
    "head_class_weights",
)
