"""Build an EfficientNet, fill it with weights, and name the parts that FixRes touches.

image -> body -> maps (N, C, h, w) -> conv_head -> bn2 + act -> pool -> classifier
         frozen by the fix                         ^ its statistics      ^ trained by the fix

One arithmetic makes logits wherever they are made, from pixels or from kept maps: body and
``conv_head`` run under autocast (bf16 on a GPU, float32 on a CPU), all that follows in float32. So
the same net has the same logits at a rung, in a row and in a later reading; in bf16 the two largest
of many logits would be equal. What is served is read in float32 throughout: ``exact``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import cast

import timm
import torch
from timm.models.efficientnet import EfficientNet

from trainables.models.device import autocast, float32, in_float64, rounded_as_autocast
from trainables.models.folding import fold_batch_norms
from trainables.models.tensor_names import CLASSIFIER
from trainables.models.variants import Variant

Net = EfficientNet
State = dict[str, torch.Tensor]


def build(
    variant: Variant, num_classes: int, *, drop_rate: float = 0.0, drop_path: float = 0.0
) -> Net:
    """Build the variant with ``num_classes`` outputs and freshly initialised weights.

    Args:
        drop_rate: of dropout before the classifier.
        drop_path: the rate at which images skip the last residual block; of earlier ones less.
    """
    model = timm.create_model(
        variant.timm_name,
        pretrained=False,
        num_classes=num_classes,
        drop_rate=drop_rate,
        drop_path_rate=drop_path,
    )
    return cast(Net, model)


def to_device(model: Net, device: torch.device) -> Net:
    """Move the model to the device, channels last: on a CPU it trains 1.5 to 2 times as fast."""
    on_device: Net = model.to(device)
    return on_device.to(memory_format=torch.channels_last)


def into_training(
    model: Net, *, frozen_norms: bool = False, classifier_alone: bool = False
) -> None:
    """Put the net into training mode, all of it or what is not frozen.

    Args:
        frozen_norms: batch norms normalise by their running statistics, which stay, as do their
            scales and shifts: timm's FrozenBatchNormAct2d, under the names that trained ones have.
        classifier_alone: all before the classifier is as in testing, and stays.
    """
    model.train().requires_grad_()
    frozen: Iterable[torch.nn.Module] = ()
    if classifier_alone:
        frozen = (part for name, part in model.named_children() if name != "classifier")
    elif frozen_norms:
        frozen = (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    for module in frozen:
        module.eval().requires_grad_(False)


def share_frozen(model: Net, other: Net) -> None:
    """Have a net use all modules of another up to the last batch norm, whose weights are equal."""
    for name in ("conv_stem", "bn1", "blocks", "conv_head"):
        setattr(model, name, getattr(other, name))


def _arithmetic(x: torch.Tensor, *, exact: bool) -> AbstractContextManager[object]:
    return float32() if exact else autocast(x.device)


def body(model: Net, x: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
    """Run the net up to ``conv_head``, under autocast.

    Args:
        x: (N, 3, R, R) normalised pixels.
        exact: in float32 instead.

    Returns:
        (N, C, h, w) maps, bfloat16 from a GPU under autocast; h = w = ceil(R/32).
    """
    with _arithmetic(x, exact=exact):
        maps: torch.Tensor = model.blocks(model.bn1(model.conv_stem(x)))
    return maps


def frozen_body(model: Net) -> Net:
    """Copy the net up to ``conv_head`` for passes that never train it; :func:`body` runs the copy.

    Its batch norms are folded into the convolutions, and weights are rounded once to what autocast
    would round them to for each batch. Its maps differ from the net's by rounding.

    Args:
        model: in evaluation mode.
    """
    parts = {name: deepcopy(getattr(model, name)) for name in ("conv_stem", "bn1", "blocks")}
    frozen = torch.nn.Sequential(OrderedDict(parts)).requires_grad_(False)
    fold_batch_norms(frozen)
    for parameter in frozen.parameters():
        parameter.data = rounded_as_autocast(parameter.data)
    return cast(Net, frozen.to(memory_format=torch.channels_last))


def pre_norm(model: Net, maps: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
    """Apply ``conv_head`` under autocast: maps (N, C, h, w) -> (N, F, h, w) float32.

    Args:
        exact: in float32 instead.
    """
    with _arithmetic(maps, exact=exact):
        z: torch.Tensor = model.conv_head(maps)
    return z.float()


def pre_norm_parameters(model: Net) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the weight (F, C) and the bias (F,) by which :func:`pre_norm` maps each position.

    They are float64, of the numbers that ``conv_head`` computes with: under autocast rounded ones.
    """
    head = model.conv_head
    assert head.kernel_size == (1, 1) and head.groups == 1
    weight = in_float64(rounded_as_autocast(head.weight.detach())).flatten(1)
    if head.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, in_float64(rounded_as_autocast(head.bias.detach()))


def pooled(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Norm, activate and average: :func:`pre_norm` (N, F, h, w) -> (N, F) float32 features."""
    features: torch.Tensor = model.global_pool(model.bn2(z))
    return features


def normed(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Apply the last batch norm alone, without the activation that timm has in it: as ``z``."""
    norm = model.bn2
    return torch.nn.functional.batch_norm(
        z, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def after_norm(model: Net, y: torch.Tensor) -> torch.Tensor:
    """Activate and average: :func:`normed` (N, F, h, w) -> (N, F) float32 features."""
    features: torch.Tensor = model.global_pool(model.bn2.act(model.bn2.drop(y)))
    return features


def features(model: Net, x: torch.Tensor) -> torch.Tensor:
    """Compute the classifier's input: (N, 3, R, R) normalised pixels -> (N, F) float32."""
    return pooled(model, pre_norm(model, body(model, x)))


def load_trunk(model: Net, state: Mapping[str, torch.Tensor]) -> None:
    """Copy ``state`` into ``model``; a classifier for another number of classes starts at zero.

    EfficientNet's own start (uniform, 0.18 standard deviation for 10 classes) is meant for training
    from scratch: in fine-tuning its first gradients spoil the pretrained features.

    Raises:
        ValueError: names other than the classifier's are missing, or there are unknown ones.
    """
    own = model.state_dict()
    kept = {k: v for k, v in state.items() if k not in CLASSIFIER or v.shape == own[k].shape}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    if unexpected or set(missing) - set(CLASSIFIER):
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    if missing:
        torch.nn.init.zeros_(model.classifier.weight)
        torch.nn.init.zeros_(model.classifier.bias)
