"""Fit classifiers on kept features: every setting of a cell in one batched computation.

For features f (B, D), targets t and heads W_s, all settings s step together:

    z = f W_s' + b_s      G = (softmax(z) - t_s) / B      dW_s = G' f      db_s = sum G

one matrix product forward and one back for the lot. The learning rate is constant (FixRes tunes
for 1 to 31 epochs at a constant rate: its decay comes every 30), so that a shorter training is a
prefix of a longer one, and the numbers of epochs are snapshots that cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F


@dataclass(frozen=True, kw_only=True)
class HeadSetting:
    """How one classifier was fitted."""

    lr: float
    label_smoothing: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class HeadGrid:
    """All settings to try: their product. SGD with momentum; weight decay on all of the head."""

    lr: tuple[float, ...]
    label_smoothing: tuple[float, ...]
    epochs: tuple[int, ...]
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 1e-4

    @property
    def settings(self) -> tuple[HeadSetting, ...]:
        return tuple(
            HeadSetting(lr=lr, label_smoothing=smoothing, epochs=epochs)
            for epochs, lr, smoothing in product(
                sorted(set(self.epochs)), self.lr, self.label_smoothing
            )
        )


@dataclass(frozen=True)
class Heads:
    """Fitted classifiers: weight (S, C, D), bias (S, C), in the order of ``settings``."""

    settings: tuple[HeadSetting, ...]
    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, S, C)."""
        return torch.einsum("nd,scd->nsc", features, self.weight) + self.bias


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which epoch ``epoch`` sees ``n`` features: the same for every setting."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


@torch.inference_mode()
def fit(
    features: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    grid: HeadGrid,
    *,
    seed: int,
) -> Heads:
    """Fit all settings from one start.

    Args:
        features: (N, D) float32; labels: (N,) int64.
        weight, bias: (C, D) and (C,), where every setting starts.

    Returns:
        Heads on the features' device. The same arguments give the same heads.
    """
    runs = list(product(grid.lr, grid.label_smoothing))
    count, (classes, width) = len(runs), weight.shape
    device = features.device
    lr = torch.tensor([lr for lr, _ in runs], device=device)
    smoothing = torch.tensor([s for _, s in runs], device=device)[:, None]
    w = weight.detach().to(device).repeat(count, 1).contiguous()  # (S C, D)
    b = bias.detach().to(device).repeat(count)
    lr_of_row = lr.repeat_interleave(classes)
    velocity_w, velocity_b = torch.zeros_like(w), torch.zeros_like(b)
    wanted, snapshots = set(grid.epochs), []
    for epoch in range(1, max(wanted) + 1):
        order = epoch_order(len(features), seed, epoch).to(device)
        for chosen in order.split(grid.batch_size):
            f = features[chosen]
            z = torch.addmm(b, f, w.T).view(len(f), count, classes)
            target = F.one_hot(labels[chosen], classes)[:, None] * (1 - smoothing)
            g = (z.softmax(dim=2) - target - smoothing / classes) / len(f)
            g = g.view(len(f), count * classes)
            velocity_w.mul_(grid.momentum).addmm_(g.T, f).add_(w, alpha=grid.weight_decay)
            velocity_b.mul_(grid.momentum).add_(g.sum(0)).add_(b, alpha=grid.weight_decay)
            w.addcmul_(velocity_w, lr_of_row[:, None], value=-1)
            b.addcmul_(velocity_b, lr_of_row, value=-1)
        if epoch in wanted:
            snapshots.append(
                (w.view(count, classes, width).clone(), b.view(count, classes).clone())
            )
    return Heads(
        grid.settings,
        torch.cat([weights for weights, _ in snapshots]),
        torch.cat([biases for _, biases in snapshots]),
    )


@torch.inference_mode()
def best(heads: Heads, features: torch.Tensor, labels: torch.Tensor) -> int:
    """Index of the setting with most hits on (features, labels); by loss where hits are equal."""
    logits = heads.logits(features)
    hits = (logits.argmax(dim=2) == labels[:, None]).sum(dim=0)
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.repeat_interleave(len(heads.settings)), reduction="none"
    )
    loss = loss.view(len(labels), -1).double().mean(dim=0).nan_to_num(nan=torch.inf)
    hits = hits.where(loss.isfinite(), -1)  # argmax over NaN would hit the first class
    ranked = sorted(range(len(heads.settings)), key=lambda s: (-int(hits[s]), float(loss[s])))
    return ranked[0]
