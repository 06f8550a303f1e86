"""Fit classifiers on kept features: every setting of a cell in one batched computation.

For features f (B, D), targets t and heads W_s, all settings s of an optimiser step together:

    z = W_s f' + b_s      G = (softmax(z) - t_s) / B      dW_s = G f      db_s = sum G

one matrix product forward and one back for the lot. Images are columns: the softmax over a few
classes then runs along whole vectors of images, many times faster than along rows of classes.

The learning rate is constant (FixRes, arXiv:1906.06423, tunes for 1 to 31 epochs; its released
code lowers the rate every 30), so that a shorter training is a prefix of a longer one: val judges
each setting after each epoch, and the numbers of epochs cost nothing to try.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, sqrt

import torch

from trainables.fixres.head_settings import HeadGrid, HeadSetting

MAX_LOGITS_AT_ONCE = 1 << 24  # logits of val at a time: 64 MB
BETAS, EPS = (0.9, 0.999), 1e-8  # torch.optim.AdamW's own

Key = tuple[int, float]  # hits, then minus the loss: the larger the better
_WORST: Key = (-1, -inf)  # also of what is not finite


@dataclass(frozen=True)
class FittedHead:
    """A classifier: weight (C, D), bias (C,).

    ``tried``: (setting, epoch) pairs that val was asked about: what the head was picked among.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    setting: HeadSetting
    tried: int


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which epoch ``epoch`` sees ``n`` features: the same for every setting."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


@torch.inference_mode()
def fit(
    views: Sequence[torch.Tensor],
    labels: torch.Tensor,
    val: torch.Tensor,
    val_labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    grid: HeadGrid,
    *,
    seed: int,
) -> FittedHead:
    """Fit all settings from one start; of all settings and epochs keep what val likes best.

    Better is: more hits, then a lower mean cross-entropy (without smoothing), then fewer epochs. A
    setting is given up after ``grid.patience`` epochs without a better one of its own, or when its
    loss on val is no longer finite; what is not finite never wins.

    Args:
        views: (N, D) float32 features of the same images; epoch e sees view (e - 1) modulo their
            number. labels: (N,) int64.
        val: (M, D) float32; val_labels: (M,) int64.
        weight, bias: (C, D) and (C,), where every setting starts.

    Returns:
        On the features' device; the same arguments give the same head. Where no setting was finite
        after any epoch: the start, as the first setting with 0 epochs.
    """
    start = weight.detach().to(views[0]), bias.detach().to(views[0])
    batches = [_RULES[name](start, grid, name) for name in dict.fromkeys(grid.optimizer)]
    best_key, tried = _WORST, 0
    best = FittedHead(start[0].clone(), start[1].clone(), grid.settings[0], 0)
    for epoch in _epochs(batches, views, labels, grid, seed):
        for runs in batches:
            keys = runs.judge(val, val_labels)
            tried += len(keys)
            if max(keys) > best_key:
                best_key = max(keys)
                best = runs.head(keys.index(best_key), epoch)
            alive = [i for i, key in enumerate(keys) if key > _WORST]
            runs.keep([i for i in alive if runs.stale[i] < grid.patience])
        batches[:] = [runs for runs in batches if runs.settings]
    return replace(best, tried=tried)


@torch.inference_mode()
def fit_setting(
    views: Sequence[torch.Tensor],
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    setting: HeadSetting,
    grid: HeadGrid,
    *,
    seed: int,
) -> FittedHead:
    """Fit one setting for just its epochs, with nothing to judge it by.

    From the features that ``fit`` picked the setting on, this is the head that ``fit`` gave: bit
    for bit if it tried no other, else as far as a product of other matrices rounds alike.

    Args:
        views, labels, weight, bias: as of :func:`fit`.
        grid: batch size and momentum.

    Returns:
        The head; it was picked among none.
    """
    alone = grid.only(setting)
    start = weight.detach().to(views[0]), bias.detach().to(views[0])
    runs = _RULES[setting.optimizer](start, alone, setting.optimizer)
    for _ in _epochs([runs], views, labels, alone, seed):
        pass
    return runs.head(0, setting.epochs)


def _epochs(
    batches: list[_BatchedRuns],
    views: Sequence[torch.Tensor],
    labels: torch.Tensor,
    grid: HeadGrid,
    seed: int,
) -> Iterator[int]:
    """Train what is in ``batches``, epoch by epoch, while there is anything; yields its number."""
    for epoch in range(1, grid.epochs + 1):
        if not batches:
            return
        order = epoch_order(len(labels), seed, epoch).to(labels.device)
        _train(batches, views[(epoch - 1) % len(views)], labels, order, grid.batch_size)
        yield epoch


def _train(
    batches: Sequence[_BatchedRuns],
    features: torch.Tensor,
    labels: torch.Tensor,
    order: torch.Tensor,
    size: int,
) -> None:
    """One epoch. Rows are gathered into one buffer, which so stays in the processor's cache."""
    buffer = torch.empty_like(features[:size])
    for chosen, target in zip(order.split(size), labels[order].split(size), strict=True):
        f = torch.index_select(features, 0, chosen, out=buffer[: len(chosen)])
        for runs in batches:
            runs.step(f, target)


class _BatchedRuns(ABC):
    """Settings of one optimiser, stepping together. A row is a class of a run: R = runs x C."""

    moments: int  # running averages of the gradient that the optimiser keeps

    def __init__(self, start: tuple[torch.Tensor, torch.Tensor], grid: HeadGrid, name: str):
        self.settings = [s for s in grid.settings if s.optimizer == name]
        self.momentum, self.steps, self.classes = grid.momentum, 0, len(start[1])
        weight = start[0].repeat(len(self.settings), 1)  # (R, D)
        bias = start[1].repeat(len(self.settings))[:, None]  # (R, 1)
        self.parts = [
            (rows, *(torch.zeros_like(rows) for _ in range(self.moments)))
            for rows in (weight, bias)
        ]
        self.keys = [_WORST] * len(self.settings)  # each run's best so far
        self.stale = [0] * len(self.settings)  # epochs since
        self._set_columns()

    def _set_columns(self) -> None:
        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=self.parts[0][0].device)[:, None]

        lr = column([s.lr for s in self.settings])
        lr_decay = lr * column([s.weight_decay for s in self.settings])
        self.smoothing = column([s.label_smoothing for s in self.settings])[:, :, None]
        self.scale = self._scale(lr)[:, :, None]
        self.lr, self.lr_decay = (c.repeat_interleave(self.classes, 0) for c in (lr, lr_decay))

    def _logits(self, f: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (runs, C, B)."""
        (weight, *_), (bias, *_) = self.parts
        return torch.addmm(bias, weight, f.T).view(-1, self.classes, len(f))

    def step(self, f: torch.Tensor, labels: torch.Tensor) -> None:
        self.steps += 1
        p = self._logits(f).softmax(dim=1)
        scale = self.scale / len(f)
        torch.addcmul(scale * self.smoothing / -self.classes, p, scale, out=p)
        at_label = (scale * (self.smoothing - 1)).expand(-1, 1, len(f))
        p.scatter_add_(1, labels.expand_as(at_label), at_label)
        for part, x in zip(self.parts, (f, f.new_ones(len(f), 1)), strict=True):
            self._update(part, p.view(-1, len(f)), x)

    def judge(self, features: torch.Tensor, labels: torch.Tensor) -> list[Key]:
        """Each run's key as it stands now."""
        keys = self._score(features, labels)
        for i, key in enumerate(keys):
            better = key > self.keys[i]
            self.keys[i], self.stale[i] = (key, 0) if better else (self.keys[i], self.stale[i] + 1)
        return keys

    def _score(self, features: torch.Tensor, labels: torch.Tensor) -> list[Key]:
        count = len(self.settings)
        hits = torch.zeros(count, dtype=torch.int64, device=labels.device)
        loss = torch.zeros(count, dtype=torch.float64, device=labels.device)
        size = max(1, MAX_LOGITS_AT_ONCE // (count * self.classes))
        for f, target in zip(features.split(size), labels.split(size), strict=True):
            z, at = self._logits(f), target.expand(count, 1, -1)
            top, first = z.max(dim=1, keepdim=True)
            own = z.sub_(top).gather(1, at)
            loss += (z.exp_().sum(dim=1).log_() - own[:, 0]).double().sum(dim=1)
            hits += (first == at).sum(dim=(1, 2))
        found = zip(hits.tolist(), (loss / len(labels)).tolist(), strict=True)
        return [(h, -mean) if isfinite(mean) else _WORST for h, mean in found]

    def head(self, i: int, epoch: int) -> FittedHead:
        rows = slice(i * self.classes, (i + 1) * self.classes)
        (weight, *_), (bias, *_) = self.parts
        setting = replace(self.settings[i], epochs=epoch)
        return FittedHead(weight[rows].clone(), bias[rows, 0].clone(), setting, 0)

    def keep(self, runs: list[int]) -> None:
        """Drop all others: they cost nothing from here on."""
        if len(runs) == len(self.settings):
            return
        self.settings = [self.settings[i] for i in runs]
        self.keys, self.stale = [self.keys[i] for i in runs], [self.stale[i] for i in runs]
        self.parts = [tuple(self._of(runs, rows) for rows in part) for part in self.parts]
        self._set_columns()

    def _of(self, runs: list[int], rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, self.classes, rows.shape[1])[runs].flatten(0, 1)

    @abstractmethod
    def _scale(self, lr: torch.Tensor) -> torch.Tensor:
        """What ``_update`` wants the gradient times: (runs, 1)."""

    @abstractmethod
    def _update(self, part: tuple[torch.Tensor, ...], slope: torch.Tensor, x: torch.Tensor) -> None:
        """Step a part (R, K), parameters and moments, whose gradient is slope (R, B) x (B, K)."""


class _Sgd(_BatchedRuns):
    """torch.optim.SGD, with the learning rate in the velocity: a pass less over the weights."""

    moments = 1

    def _scale(self, lr: torch.Tensor) -> torch.Tensor:
        return -lr

    def _update(self, part: tuple[torch.Tensor, ...], slope: torch.Tensor, x: torch.Tensor) -> None:
        rows, velocity = part
        velocity.addmm_(slope, x, beta=self.momentum).addcmul_(rows, self.lr_decay, value=-1)
        rows.add_(velocity)


class _AdamW(_BatchedRuns):
    """torch.optim.AdamW."""

    moments = 2

    def _scale(self, lr: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(lr)

    def _update(self, part: tuple[torch.Tensor, ...], slope: torch.Tensor, x: torch.Tensor) -> None:
        rows, mean, square = part
        gradient = slope @ x
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        # mean / (sqrt(square) / c + eps), with c on the other side: a pass less over the weights
        c = sqrt(1 - BETAS[1] ** self.steps)
        towards = torch.div(mean, torch.sqrt(square, out=gradient).add_(c * EPS), out=gradient)
        rows.mul_(1 - self.lr_decay)
        rows.addcmul_(towards, self.lr, value=-c / (1 - BETAS[0] ** self.steps))


_RULES: dict[str, type[_BatchedRuns]] = {"sgd": _Sgd, "adamw": _AdamW}
