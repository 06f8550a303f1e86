"""Make a trunk's optimiser, and give its learning rate at each step."""

from __future__ import annotations

import math

import timm.optim
import torch
from torch import nn

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")


def make_optimizer(
    model: nn.Module, kind: str, *, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.Optimizer:
    """Make AdamW, or SGD with Nesterov momentum 0.9; norms and biases are not decayed.

    Args:
        model: on the device where it stays.
        kind: one of ``OPTIMIZERS``.
        layer_decay: what each layer has of the learning rate of the next one. Where it is not 1,
            groups of parameters have their share of the whole as "lr_scale" (Bao et al.,
            arXiv:2106.08254; layers are timm's groups of the net).

    Raises:
        ValueError: there is no such optimiser.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer {kind!r} is none of {OPTIMIZERS}")
    return timm.optim.create_optimizer_v2(
        model,
        opt=kind,
        lr=lr,
        weight_decay=weight_decay,
        momentum=0.9,
        fused=True,
        layer_decay=None if layer_decay == 1 else layer_decay,
    )


def lr_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Compute the learning rate at a step as a share of its peak: a linear rise, then the schedule.

    Cosine (Loshchilov and Hutter, arXiv:1608.03983, without restarts) is zero after the last step.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: steps of the rise.
        schedule: one of ``SCHEDULES``.

    Raises:
        ValueError: there is no such schedule.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    if schedule != "cosine":
        raise ValueError(f"schedule {schedule!r} is none of {SCHEDULES}")
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
