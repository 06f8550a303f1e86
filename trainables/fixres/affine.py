"""Train the last batch norm's scale and shift together with the classifier, on kept maps.

A step does exactly what one through the whole net would do: everything before the norm is frozen,
and its input is one matrix product away from the maps. ``conv_head`` runs under autocast, in bf16
on a GPU; loss, gradients and weights are float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from trainables.evaluation.class_metrics import Metric, count_by_class
from trainables.fixres.features import Maps, features_of, pre_norm
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.fixres.heads import epoch_order
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.tensor_names import AFFINE, CLASSIFIER


def fit_affine(
    model: Net,
    train: tuple[Maps, torch.Tensor],
    val: tuple[Maps, torch.Tensor],
    setting: HeadSetting,
    grid: HeadGrid,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> tuple[HeadSetting, int]:
    """Train the model from where it stands, by one setting, and keep its best epoch on val.

    Best is, as in :func:`.heads.fit`, most of the grid's metric and then the least cross-entropy;
    where no epoch is finite, the model is left as it was.

    Args:
        model: in evaluation mode, on the device; left with no parameter that requires gradients.
        train, val: maps before ``conv_head``, and labels (N,) int64 on the CPU.
        setting: learning rate, smoothing, decay and optimiser; scale and shift are not decayed.
        grid: how many epochs at most, patience and batch size.
        batch_size: images at a time when val is scored.

    Returns:
        The setting with the number of its best epoch, and how many epochs were scored on val.
    """
    trained = _trained(model)
    best = {name: p.detach().clone() for name, p in trained.items()}
    best_key, best_epoch, epoch = (-1.0, 0.0), 0, 0
    for epoch in _epochs(model, train, setting, grid, seed, device):
        key = _val_key(model, val, grid.metric, batch_size, device)
        if key > best_key:
            best_key, best_epoch = key, epoch
            best = {name: p.detach().clone() for name, p in trained.items()}
        if epoch - best_epoch >= grid.patience:
            break
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(best[name])
    model.requires_grad_(False)
    return replace(setting, epochs=best_epoch), epoch


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
    return {name: model.get_parameter(name) for name in (*AFFINE, *CLASSIFIER)}


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
    optimizer = _optimizer(trained, setting, grid)
    for epoch in range(1, grid.epochs + 1):
        for chosen in torch.split(epoch_order(len(train[1]), seed, epoch), grid.batch_size):
            _step(model, train[0].tensor[chosen], train[1][chosen], optimizer, setting, device)
        yield epoch


def _optimizer(
    trained: dict[str, torch.nn.Parameter], setting: HeadSetting, grid: HeadGrid
) -> torch.optim.Optimizer:
    groups: Sequence[dict[str, object]] = [
        {"params": [trained[n] for n in AFFINE], "weight_decay": 0.0},
        {"params": [trained[n] for n in CLASSIFIER], "weight_decay": setting.weight_decay},
    ]
    if setting.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=setting.lr)
    return torch.optim.SGD(groups, lr=setting.lr, momentum=grid.momentum)


def _step(
    model: Net,
    maps: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    setting: HeadSetting,
    device: torch.device,
) -> None:
    with torch.no_grad():
        z = pre_norm(model, maps, device).float()
    logits = model.classifier(backbone.pooled(model, z))
    loss = cross_entropy(logits, labels.to(device), label_smoothing=setting.label_smoothing)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


@torch.inference_mode()
def _val_key(
    model: Net,
    val: tuple[Maps, torch.Tensor],
    metric: Metric,
    batch_size: int,
    device: torch.device,
) -> tuple[float, float]:
    """Score val: the metric, then minus the loss, the larger the better; not finite is worst."""
    features = features_of(model, val[0], batch_size=batch_size, device=device)
    logits = model.classifier(features.to(device)).cpu()
    loss = cross_entropy(logits, val[1]).double().item()
    if not math.isfinite(loss):
        return (-1, -math.inf)
    counts = count_by_class(val[1].numpy(), logits.argmax(1).numpy(), logits.shape[1])
    return (float(counts.value(metric)), -loss)
