"""The optimiser and the learning rate's course over a trunk's training."""

from __future__ import annotations

import math

import timm.optim
import torch
from torch import nn

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")


def make_optimizer(
    model: nn.Module, kind: str, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9. Norms and biases are not decayed."""
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer {kind!r} is none of {OPTIMIZERS}")
    return timm.optim.create_optimizer_v2(
        model, opt=kind, lr=lr, weight_decay=weight_decay, momentum=0.9, fused=True
    )


def lr_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Share of the peak learning rate at ``step`` of ``steps``: a linear rise, then the schedule.

    Cosine ends at zero after the last step.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    if schedule != "cosine":
        raise ValueError(f"schedule {schedule!r} is none of {SCHEDULES}")
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
