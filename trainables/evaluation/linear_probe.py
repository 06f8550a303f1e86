"""Fit a linear probe: multinomial logistic regression on a net's features, to its optimum.

The features are centred and scaled by one number. Were each scaled by its own, those that hardly
vary would have weights of any size, and training that begins there would be thrown far off
(docs/training.md). The weights are decayed, biases are not; how much is decided by a part of the
images that is held out. No val is needed, and none is used up.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from trainables.evaluation.inference import View, outputs_of
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.memory_fit import MemoryFit
from trainables.models.variants import Preprocessing

RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # weight decays that are tried, the largest first
HELD_OUT = 5  # every so manieth image decides between them
# How often the loss is computed in all fits of a probe: for estimates of the time that it takes.
# On 300 to 1,442 photographs it was 400 to 830 times; MOST_STEPS bounds it.
EXPECTED_LOSSES = 700
MOST_STEPS = 200  # of L-BFGS, for each weight decay
SMALLEST_STD = 1e-6  # of all features together

_NO_ROOM = (
    "Memory runs out with a single image, for a linear probe: train at a lower `train_res`, leave "
    "out the largest variants, or give trials GPUs with more memory."
)


class Probe(NamedTuple):
    """A classifier of features."""

    weight: torch.Tensor  # (C, D) float32
    bias: torch.Tensor  # (C,) float32


def features_of(
    model: Net, view: View, preprocessing: Preprocessing, *, batch_size: int, device: torch.device
) -> torch.Tensor:
    """Compute the classifier's input: (N, R, R, 3) uint8 -> (N, D) float32 on the device.

    Where memory runs out, batches are halved. The model is put into evaluation mode.

    Raises:
        SweepError: not even a single image fits into memory.
    """
    model.eval()
    forward = partial(backbone.features, model)
    fit = MemoryFit(device, minimum=1, error=_NO_ROOM)
    features = fit.run(
        lambda images: outputs_of(forward, view, preprocessing, batch_size=images, device=device),
        batch_size,
    )
    return features.to(device)


def fit_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    *,
    class_weights: torch.Tensor | None = None,
) -> Probe:
    """Fit the probe with the weight decay that is best on every fifth image, then on all of them.

    Args:
        features: (N, D) float32, in an order that mixes the classes.
        labels: (N,) int64.
        classes: C, their number.
        class_weights: (C,) float32, what an image of each class weighs in the loss.
    """
    mean = features.mean(dim=0)
    std = (features - mean).square().mean().sqrt().clamp(min=SMALLEST_STD)
    x = (features - mean) / std
    held_out = torch.arange(len(x), device=x.device) % HELD_OUT == HELD_OUT - 1
    ridge = RIDGES[0]
    if held_out.any():
        losses, probe = [], _zero_probe(x, classes)
        for candidate in RIDGES:
            probe = fitted(x[~held_out], labels[~held_out], probe, candidate, class_weights)
            logits = x[held_out] @ probe.weight.T + probe.bias
            losses.append(cross_entropy(logits, labels[held_out], class_weights).item())
        ridge = RIDGES[losses.index(min(losses))]
    weight, bias = fitted(x, labels, _zero_probe(x, classes), ridge, class_weights)
    return Probe(weight / std, bias - weight @ (mean / std))


def fitted(
    x: torch.Tensor,
    labels: torch.Tensor,
    start: Probe,
    ridge: float,
    class_weights: torch.Tensor | None = None,
) -> Probe:
    """Minimise the mean cross-entropy plus ``ridge`` / 2 times the sum of squared weights."""
    weight, bias = (part.clone().requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS(
        (weight, bias), max_iter=MOST_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(x @ weight.T + bias, labels, class_weights)
        value = value + ridge / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return Probe(weight.detach(), bias.detach())


def _zero_probe(x: torch.Tensor, classes: int) -> Probe:
    return Probe(x.new_zeros(classes, x.shape[1]), x.new_zeros(classes))
