"""Train the last batch norm's scale and shift together with the classifier, on kept maps.

A step does exactly what one through the whole net would do: everything before the norm is frozen,
and its input is at most one matrix product away from the maps. That runs under autocast, in bf16
on a GPU; loss, gradients and weights are float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy

from trainables.evaluation.class_metrics import Metric, count_by_class
from trainables.fixres.cross_fit import WORST, CrossFit, HalfPicks, Merit, merit, val_halves
from trainables.fixres.features import Maps, features_of
from trainables.fixres.head_loss import weights_by_kind
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.fixres.heads import epoch_order
from trainables.models import backbone
from trainables.models.backbone import Net, State
from trainables.models.parts.tensor_names import AFFINE, CLASSIFIER

_ALL = -1  # all of val, beside its halves 0 and 1, as a judge of epochs


@dataclass(frozen=True)
class AffinePick:
    """How a model was trained, and what val's pick of that is worth."""

    setting: HeadSetting  # with the number of its best epoch
    tried: int  # epochs that were scored on val
    cross_fit: CrossFit


def fit_affine(
    model: Net,
    train: tuple[Maps, torch.Tensor],
    val: tuple[Maps, torch.Tensor],
    setting: HeadSetting,
    grid: HeadGrid,
    *,
    half_settings: tuple[HeadSetting, HeadSetting] | None = None,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> AffinePick:
    """Train the model from where it stands, by one setting, and keep its best epoch on val.

    Best is, as in :func:`.heads.fit`, most of the grid's metric and then the least cross-entropy;
    where no epoch is finite, the model is left as it was. What the pick is worth is judged by
    halves of val (:mod:`.cross_fit`), each of which picks the epoch of the setting that it picked;
    a setting that only halves picked is trained for them alone.

    Args:
        model: in evaluation mode, on the device; left with no parameter that requires gradients.
        train, val: maps as the body leaves them, and labels (N,) int64 on the CPU.
        setting: learning rate, smoothing, class weights, decay and optimiser; scale and shift are
            not decayed.
        grid: how many epochs at most, patience and batch size.
        half_settings: those that each half of val picked; None: the same as all of val.
        batch_size: images at a time when val is scored.
    """
    own = replace(setting, epochs=0)
    by_half = [replace(s, epochs=0) for s in half_settings or (setting, setting)]
    picks, tried = _EpochPicks(model, val, own, grid.metric, batch_size, device), 0
    for one in dict.fromkeys((own, *by_half)):
        picks.restore_start()
        since = {half: 0 for half in (0, 1) if by_half[half] == one}
        since |= {_ALL: 0} if one == own else {}
        for epoch in _epochs(model, train, one, grid, seed, device):
            tried = epoch if _ALL in since else tried
            took = picks.offer(since, replace(one, epochs=epoch))
            since = {judge: 0 if judge in took else past + 1 for judge, past in since.items()}
            since = {judge: past for judge, past in since.items() if past < grid.patience}
            if not since:
                break
    picks.restore_best()
    model.requires_grad_(False)
    return AffinePick(picks.setting, tried, picks.halves.judged())


class _EpochPicks:
    """What all of val, and each half of it, pick among the states that a model is trained to."""

    def __init__(
        self,
        model: Net,
        val: tuple[Maps, torch.Tensor],
        setting: HeadSetting,
        metric: Metric,
        batch_size: int,
        device: torch.device,
    ):
        self._model, self._val, self._metric = model, val, metric
        self._batch_size, self._device = batch_size, device
        self._start = self._best = self._state()
        self._best_merit, self.setting = WORST, setting
        self._halves = val_halves(val[1])
        self.halves = HalfPicks(self._halves, self._logits().argmax(dim=1), setting)

    def offer(self, judges: Collection[int], setting: HeadSetting) -> set[int]:
        """Let judges pick the model as it is now, if they like it best; say which did.

        Args:
            judges: halves of val, and ``_ALL`` of it.
            setting: that it was trained by, with the number of epochs.
        """
        logits = self._logits()
        predicted = logits.argmax(dim=1)
        took = set()
        for half in (0, 1):
            if half in judges:
                merits = [self._merit_on(self._halves == half, logits)]
                if self.halves.offer(half, merits, predicted[None], [setting]):
                    took.add(half)
        if _ALL in judges:
            on_all = self._merit_on(torch.ones_like(predicted, dtype=torch.bool), logits)
            if on_all > self._best_merit:
                self._best_merit, self._best, self.setting = on_all, self._state(), setting
                took.add(_ALL)
        return took

    def _merit_on(self, chosen: torch.Tensor, logits: torch.Tensor) -> Merit:
        """Rank the model by some images of val: (n,) bool."""
        labels, z = self._val[1][chosen], logits[chosen]
        if not len(labels):
            return WORST
        counts = count_by_class(labels.numpy(), z.argmax(dim=1).numpy(), z.shape[1])
        loss = cross_entropy(z, labels).item()
        return merit(float(counts.value(self._metric)), loss)

    def restore_start(self) -> None:
        """Put the model back to where training begins."""
        self._restore(self._start)

    def restore_best(self) -> None:
        """Put the model to what all of val picked; to the start, where it picked nothing."""
        self._restore(self._best)

    def _state(self) -> State:
        return {name: p.detach().clone() for name, p in _trained(self._model).items()}

    @torch.no_grad()
    def _restore(self, state: State) -> None:
        for name, parameter in _trained(self._model).items():
            parameter.copy_(state[name])

    @torch.inference_mode()
    def _logits(self) -> torch.Tensor:
        """Compute val's logits by the model as it is: (n, C) float32 on the CPU."""
        features = features_of(
            self._model, self._val[0], batch_size=self._batch_size, device=self._device
        )
        return backbone.classify(self._model, features.to(self._device)).cpu()


def fit_affine_setting(
    model: Net,
    train: tuple[Maps, torch.Tensor],
    setting: HeadSetting,
    grid: HeadGrid,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Train the model by one setting for just its epochs, without val.

    Args:
        model, train, setting: as in :func:`fit_affine`.
        grid: batch size and momentum.
    """
    for _ in _epochs(model, train, setting, grid.only(setting), seed, device):
        pass
    model.requires_grad_(False)


def _trained(model: Net) -> dict[str, torch.nn.Parameter]:
    names = backbone.names_of(model).of(AFFINE, CLASSIFIER)
    return {name: model.get_parameter(name) for name in names}


def _epochs(
    model: Net,
    train: tuple[Maps, torch.Tensor],
    setting: HeadSetting,
    grid: HeadGrid,
    seed: int,
    device: torch.device,
) -> Iterator[int]:
    """Train epoch by epoch, and yield the number of each when it is over, from 1."""
    model.requires_grad_(False)
    trained = _trained(model)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer, kind = _optimizer(model, trained, setting, grid), setting.class_weights
    classes = backbone.classifier_of(model).out_features
    weight = weights_by_kind(train[1], classes, (kind,))[kind]
    loss = CrossEntropyLoss(weight, label_smoothing=setting.label_smoothing).to(device)
    for epoch in range(1, grid.epochs + 1):
        for chosen in torch.split(epoch_order(len(train[1]), seed, epoch), grid.batch_size):
            _step(model, train[0].tensor[chosen], train[1][chosen], optimizer, loss, device)
        yield epoch


def _optimizer(
    model: Net, trained: dict[str, torch.nn.Parameter], setting: HeadSetting, grid: HeadGrid
) -> torch.optim.Optimizer:
    names = backbone.names_of(model)
    affine, classifier = ([trained[n] for n in names.of(part)] for part in (AFFINE, CLASSIFIER))
    groups: Sequence[dict[str, object]] = [
        {"params": affine, "weight_decay": 0.0},
        {"params": classifier, "weight_decay": setting.weight_decay},
    ]
    if setting.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=setting.lr)
    return torch.optim.SGD(groups, lr=setting.lr, momentum=grid.momentum)


def _step(
    model: Net,
    maps: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    loss: CrossEntropyLoss,
    device: torch.device,
) -> None:
    with torch.no_grad():
        z = backbone.pre_norm(model, maps.to(device))
    logits = backbone.classify(model, backbone.head_input(model, z))
    optimizer.zero_grad()
    torch.autograd.backward(loss(logits, labels.to(device)))
    optimizer.step()
