"""Fit classifiers on kept features: every setting of a cell in one batched computation.

For features f (B, D), targets t and heads W_s, all settings s of an optimiser step together:

    z = W_s f' + b_s      G = (softmax(z) - t_s) / B      dW_s = G f      db_s = sum G

(with class weights G is as in :mod:`.head_loss`). That is one matrix product forward and one back
for all of them. Images are columns: the softmax
over a few classes then runs along whole vectors of images, many times faster than along rows of
classes. All is float32 on one device.

The learning rate is constant (FixRes, arXiv:1906.06423, tunes for 1 to 31 epochs; its released
code lowers the rate every 30), so that a shorter training is a prefix of a longer one: each setting
is scored on val after each epoch, and to try other numbers of epochs costs nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch

from trainables.evaluation.class_metrics import ClassCounts, Metric
from trainables.fixres.cross_fit import WORST, CrossFit, HalfPicks, Merit, merit, val_halves
from trainables.fixres.feature_parts import Features, batches_of_rows
from trainables.fixres.head_loss import BatchedLoss, WeightsByKind, weights_by_kind
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.models.device import sums_dtype

MAX_LOGITS_AT_ONCE = 1 << 24  # numbers, 64 MB, when val is scored
BETAS, EPS = (0.9, 0.999), 1e-8  # the defaults of torch.optim.AdamW
_JUDGES = (0, 1, _ALL := 2)  # the halves of val, and all of it


@dataclass(frozen=True)
class FittedHead:
    """A classifier, and how it was fitted."""

    weight: torch.Tensor  # (C, D)
    bias: torch.Tensor  # (C,)
    setting: HeadSetting
    tried: int  # (setting, epoch) pairs that it was picked from, each scored on val
    cross_fit: CrossFit | None = None  # what its pick is worth on val; None: nothing was picked


@dataclass(frozen=True)
class ValScores:
    """Runs on val after an epoch."""

    merits: list[list[Merit]]  # by judge: half 0, half 1 and all of val; of each run
    predicted: torch.Tensor  # (runs, M) int64


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """Draw the order of ``n`` features in an epoch, the same for every setting: (n,) int64."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


@torch.inference_mode()
def fit(
    views: Sequence[Features],
    labels: torch.Tensor,
    val: torch.Tensor,
    val_labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    grid: HeadGrid,
    *,
    seed: int,
    at_once: int | None = None,
) -> FittedHead:
    """Fit all settings from one start, and keep the best on val of all settings and epochs.

    Better is: more of the grid's metric (of top-1: more hits), then a lower mean cross-entropy
    (without smoothing and class weights), then fewer epochs. A setting is given up after
    ``grid.patience`` epochs without a better one of its own, or when its loss on val is no longer
    finite; what is not finite never wins. What the pick is worth is judged by halves of val
    (:mod:`.cross_fit`), each of which picks and gives up by its own images alone, as all of val
    does: a setting is trained until the last of the three has given it up.

    Args:
        views: (N, D) features of the same images, at least one, float32 or, which takes half the
            memory, float16; epoch e trains on view (e - 1) modulo their number. Those that lie on
            another device than all else are copied batch by batch.
        labels: (N,) int64.
        val: (M, D) float32.
        val_labels: (M,) int64.
        weight, bias: (C, D) and (C,), where every setting starts.
        at_once: settings that are fitted together, the others after them; None: all.

    Returns:
        The best head, on val's device; the same arguments give the same head. Where no
        setting was finite after any epoch: the start, as the first setting with 0 epochs.
    """
    start = weight.detach().to(val), bias.detach().to(val)
    best_merit, tried = WORST, 0
    best = FittedHead(start[0].clone(), start[1].clone(), grid.settings[0], 0)
    halves, at_start = val_halves(val_labels), (val @ start[0].T + start[1]).argmax(dim=1)
    picks = HalfPicks(halves, at_start, grid.settings[0])
    count = at_once or len(grid.settings)
    for first in range(0, len(grid.settings), count):
        batches = _runs(start, grid, labels, grid.settings[first : first + count])
        for epoch in _epochs(batches, views, labels, grid, seed):
            for runs in batches:
                tried += sum(runs.followed[_ALL])
                scores = runs.score(val, val_labels, halves)
                settings = [replace(setting, epochs=epoch) for setting in runs.settings]
                for half in (0, 1):
                    picks.offer(half, scores.merits[half], scores.predicted, settings)
                merits = scores.merits[_ALL]
                if max(merits) > best_merit:
                    best_merit = max(merits)
                    best = runs.head(merits.index(best_merit), epoch)
                runs.drop_given_up()
            batches[:] = [runs for runs in batches if runs.settings]
    return replace(best, tried=tried, cross_fit=picks.judged())


@torch.inference_mode()
def fit_setting(
    views: Sequence[Features],
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    setting: HeadSetting,
    grid: HeadGrid,
    *,
    seed: int,
) -> FittedHead:
    """Fit one setting for just its epochs, without val.

    From the features that :func:`fit` picked the setting on, this is the head that it gave: bit
    for bit if it tried no other, else but for rounding, which differs with the matrices' sizes.

    Args:
        views, labels, weight, bias: as in :func:`fit`.
        grid: batch size and momentum.

    Returns:
        The head, on the labels' device; its ``tried`` is 0.
    """
    alone = grid.only(setting)
    device = labels.device
    start = weight.detach().float().to(device), bias.detach().float().to(device)
    [runs] = _runs(start, alone, labels, alone.settings)
    for _ in _epochs([runs], views, labels, alone, seed):
        pass
    return runs.head(0, setting.epochs)


def _runs(
    start: tuple[torch.Tensor, torch.Tensor],
    grid: HeadGrid,
    labels: torch.Tensor,
    settings: Sequence[HeadSetting],
) -> list[_BatchedRuns]:
    """Begin the runs of settings of a grid, those of one optimiser together."""
    weights = weights_by_kind(labels, len(start[1]), grid.class_weights)
    by_rule: dict[str, list[HeadSetting]] = {}
    for name in grid.optimizer:
        by_rule[name] = [setting for setting in settings if setting.optimizer == name]
    return [_RULES[name](start, grid, own, weights) for name, own in by_rule.items() if own]


def _epochs(
    batches: list[_BatchedRuns],
    views: Sequence[Features],
    labels: torch.Tensor,
    grid: HeadGrid,
    seed: int,
) -> Iterator[int]:
    """Train what is in ``batches``, epoch by epoch, while there is anything.

    Yields the number of each epoch when it is over, from 1.
    """
    for epoch in range(1, grid.epochs + 1):
        if not batches:
            return
        order = epoch_order(len(labels), seed, epoch)
        _train_epoch(batches, views[(epoch - 1) % len(views)], labels, order, grid.batch_size)
        yield epoch


def _train_epoch(
    batches: Sequence[_BatchedRuns],
    features: Features,
    labels: torch.Tensor,
    order: torch.Tensor,
    batch_size: int,
) -> None:
    """Train one epoch on images in an order: (N,) int64 on the CPU."""
    targets = labels[order.to(labels.device)].split(batch_size)
    rows = batches_of_rows(features, order, batch_size, labels.device)
    for f, target in zip(rows, targets, strict=True):
        for runs in batches:
            runs.step(f, target)


class _BatchedRuns(ABC):
    """Runs of one optimiser, one for each setting, stepping together.

    Weights and biases of all runs are stacked: R = runs x C rows, each a class of a run.
    """

    moments: int  # how many running averages of the gradient the optimiser keeps

    def __init__(
        self,
        start: tuple[torch.Tensor, torch.Tensor],
        grid: HeadGrid,
        settings: list[HeadSetting],
        weights: WeightsByKind,
    ):
        self.weights, self.settings = weights, settings
        self.momentum, self.steps, self.classes = grid.momentum, 0, len(start[1])
        self.metric = grid.metric
        weight = start[0].repeat(len(self.settings), 1)  # (R, D)
        bias = start[1].repeat(len(self.settings))[:, None]  # (R, 1)
        self.parts = [
            (rows, *(torch.zeros_like(rows) for _ in range(self.moments)))
            for rows in (weight, bias)
        ]
        runs = len(self.settings)
        self.patience = grid.patience
        self.best = [[WORST] * runs for _ in _JUDGES]  # by judge, of each run so far
        self.stale = [[0] * runs for _ in _JUDGES]  # epochs since then
        self.followed = [[True] * runs for _ in _JUDGES]  # not given up
        self._set_columns()

    def _set_columns(self) -> None:
        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=self.parts[0][0].device)[:, None]

        lr = column([s.lr for s in self.settings])
        lr_decay = lr * column([s.weight_decay for s in self.settings])
        self.loss = BatchedLoss(self.settings, self.weights, self.parts[1][0][: self.classes, 0])
        self.scale = self._scale(lr)[:, :, None]
        self.lr, self.lr_decay = (c.repeat_interleave(self.classes, 0) for c in (lr, lr_decay))

    def _logits(self, f: torch.Tensor) -> torch.Tensor:
        """Compute the logits of all runs: (B, D) -> (runs, C, B)."""
        (weight, *_), (bias, *_) = self.parts
        return torch.addmm(bias, weight, f.T).view(-1, self.classes, len(f))

    def step(self, f: torch.Tensor, labels: torch.Tensor) -> None:
        """Step all runs on features (B, D) and labels (B,)."""
        self.steps += 1
        p = self._logits(f).softmax(dim=1)
        self.loss.to_gradient(p, labels, self.scale)
        for part, x in zip(self.parts, (f, f.new_ones(len(f), 1)), strict=True):
            self._update(part, p.view(-1, len(f)), x)

    def score(
        self, features: torch.Tensor, labels: torch.Tensor, halves: torch.Tensor
    ) -> ValScores:
        """Score each run as it is now; to a judge that has given it up, it is the worst.

        A judge gives a run up that is not finite, or ``patience`` epochs past its best.
        """
        scores = self._scores(features, labels, halves)
        for judge, merits in enumerate(scores.merits):
            best, stale, followed = self.best[judge], self.stale[judge], self.followed[judge]
            for i, one in enumerate(merits):
                if not followed[i]:
                    merits[i] = WORST
                elif one > best[i]:
                    best[i], stale[i] = one, 0
                else:
                    stale[i] += 1
                    followed[i] = one > WORST and stale[i] < self.patience
        return scores

    def _scores(
        self, features: torch.Tensor, labels: torch.Tensor, halves: torch.Tensor
    ) -> ValScores:
        count, predicted = len(self.settings), []
        tally = _Tally(count, self.classes, self.metric, labels)
        dtype = sums_dtype(labels.device)
        loss = torch.zeros(count, dtype=dtype, device=labels.device)
        of_half = torch.nn.functional.one_hot(halves, 2).to(dtype)
        loss_of_half = torch.zeros(count, 2, dtype=dtype, device=labels.device)
        images = max(1, MAX_LOGITS_AT_ONCE // (count * self.classes))
        parts = (torch.split(tensor, images) for tensor in (features, labels, of_half))
        for f, target, half in zip(*parts, strict=True):
            z, at = self._logits(f), target.expand(count, 1, -1)
            top, first = z.max(dim=1, keepdim=True)
            own = z.sub_(top).gather(1, at)
            each = (z.exp_().sum(dim=1).log_() - own[:, 0]).to(dtype)
            loss += each.sum(dim=1)
            loss_of_half += each @ half
            tally.add(first[:, 0], target)
            predicted.append(first[:, 0])
        said, means = torch.cat(predicted, dim=1), (loss / len(labels)).tolist()
        by_half = [
            self._merits_on(halves == half, said, labels, loss_of_half[:, half]) for half in (0, 1)
        ]
        on_all = [merit(*pair) for pair in zip(tally.values(), means, strict=True)]
        return ValScores([*by_half, on_all], said)

    def _merits_on(
        self, chosen: torch.Tensor, said: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor
    ) -> list[Merit]:
        """Rank runs by some images of val: (n,) bool; ``loss`` is their sum, (runs,)."""
        tally = _Tally(len(said), self.classes, self.metric, labels[chosen])
        tally.add(said[:, chosen], labels[chosen])
        means = (loss / max(1, int(chosen.sum()))).tolist()
        return [merit(*pair) for pair in zip(tally.values(), means, strict=True)]

    def head(self, i: int, epoch: int) -> FittedHead:
        """Copy the head of a run as it is now, after ``epoch`` epochs."""
        rows = slice(i * self.classes, (i + 1) * self.classes)
        (weight, *_), (bias, *_) = self.parts
        setting = replace(self.settings[i], epochs=epoch)
        return FittedHead(weight[rows].clone(), bias[rows, 0].clone(), setting, 0)

    def drop_given_up(self) -> None:
        """Drop the runs that no judge follows: they cost nothing from here on."""
        runs = [i for i, judges in enumerate(zip(*self.followed, strict=True)) if any(judges)]
        if len(runs) == len(self.settings):
            return
        self.settings = [self.settings[i] for i in runs]
        self.best = [[one[i] for i in runs] for one in self.best]
        self.stale = [[one[i] for i in runs] for one in self.stale]
        self.followed = [[one[i] for i in runs] for one in self.followed]
        self.parts = [tuple(self._rows_of(runs, rows) for rows in part) for part in self.parts]
        self._set_columns()

    def _rows_of(self, runs: list[int], rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, self.classes, rows.shape[1])[runs].flatten(0, 1)

    @abstractmethod
    def _scale(self, lr: torch.Tensor) -> torch.Tensor:
        """Give the factor of the gradient that ``_update`` expects: (runs, 1)."""

    @abstractmethod
    def _update(self, part: tuple[torch.Tensor, ...], slope: torch.Tensor, x: torch.Tensor) -> None:
        """Step a part (R, K), parameters and moments, whose gradient is slope (R, B) x (B, K)."""


class _Tally:
    """Counts what runs predict, and gives each run its value by the metric.

    Of top-1 the value is the number of hits: equal shares are equal numbers.
    """

    def __init__(self, runs: int, classes: int, metric: Metric, labels: torch.Tensor):
        self._runs, self._metric = runs, metric
        self._classes = 1 if metric == "top1" else classes  # hits need not be told apart
        self._labels = labels
        zeros = torch.zeros(runs * self._classes, dtype=torch.int64, device=labels.device)
        self._hits, self._predicted = zeros, zeros.clone()

    def add(self, predicted: torch.Tensor, labels: torch.Tensor) -> None:
        """Count some images: (runs, B) and (B,)."""
        hit = predicted == labels
        if self._metric == "top1":
            self._hits += hit.sum(dim=1)
            return
        first = torch.arange(self._runs, device=labels.device)[:, None] * self._classes
        size = len(self._hits)
        self._predicted += torch.bincount((first + predicted).flatten(), minlength=size)
        self._hits += torch.bincount((first + labels)[hit], minlength=size)

    def values(self) -> list[float]:
        """Give the value of each run."""
        if self._metric == "top1":
            return self._hits.tolist()
        shape = (self._runs, self._classes)
        images = torch.bincount(self._labels, minlength=self._classes).cpu().numpy()
        counts = ClassCounts(
            images=np.broadcast_to(images, shape),
            predicted=self._predicted.view(shape).cpu().numpy(),
            hits=self._hits.view(shape).cpu().numpy(),
        )
        values: list[float] = counts.value(self._metric).tolist()
        return values


class _Sgd(_BatchedRuns):
    """As torch.optim.SGD; the velocity holds the learning rate: one pass less over the weights."""

    moments = 1

    def _scale(self, lr: torch.Tensor) -> torch.Tensor:
        return -lr

    def _update(self, part: tuple[torch.Tensor, ...], slope: torch.Tensor, x: torch.Tensor) -> None:
        rows, velocity = part
        velocity.addmm_(slope, x, beta=self.momentum).addcmul_(rows, self.lr_decay, value=-1)
        rows.add_(velocity)


class _AdamW(_BatchedRuns):
    """As torch.optim.AdamW."""

    moments = 2

    def _scale(self, lr: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(lr)

    def _update(self, part: tuple[torch.Tensor, ...], slope: torch.Tensor, x: torch.Tensor) -> None:
        rows, mean, square = part
        gradient = slope @ x
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        # The step is mean / (sqrt(square) / c + eps). With c in the numerator it is one pass less
        # over the weights.
        c = sqrt(1 - BETAS[1] ** self.steps)
        direction = torch.div(mean, torch.sqrt(square, out=gradient).add_(c * EPS), out=gradient)
        rows.mul_(1 - self.lr_decay)
        rows.addcmul_(direction, self.lr, value=-c / (1 - BETAS[0] ** self.steps))


_RULES: dict[str, type[_BatchedRuns]] = {"sgd": _Sgd, "adamw": _AdamW}
