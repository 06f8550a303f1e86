"""Build a net, fill it with weights, and run the parts between which FixRes divides it.

image -> body -> maps (N, C, h, w) -> linear -> norm -> mix -> pool -> neck -> classifier
         frozen by the fix                      ^ its statistics              ^ trained by the fix

Maps are what the body leaves: linear's input, and after it in channels what is carried past the
norm, if anything is (:mod:`.parts.net_parts`). In an EfficientNet linear is ``conv_head``; the
norm, ``bn2``, has the activation in it, and there are no mix and no neck.

One arithmetic makes logits wherever they are made, from pixels or from kept maps: body and
linear run under autocast (bf16 on a GPU, float32 on a CPU), all that follows in float32. So
the same net has the same logits at a rung, in a row and in a later reading; in bf16 the two largest
of many logits would be equal. What is served is read in float32 throughout: ``exact``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any, cast

import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from trainables.errors import UserError
from trainables.models.device import autocast, float32, in_float64, rounded_as_autocast
from trainables.models.folding import fold_batch_norms
from trainables.models.parts.dividing import parts_of
from trainables.models.parts.net_parts import run
from trainables.models.parts.tensor_names import CLASSIFIER, TensorNames
from trainables.models.variants import Variant

Net = nn.Module
State = dict[str, torch.Tensor]


def build(
    variant: Variant, num_classes: int, *, drop_rate: float = 0.0, drop_path: float = 0.0
) -> Net:
    """Build the variant with ``num_classes`` outputs and freshly initialised weights.

    Args:
        drop_rate: of dropout before the classifier.
        drop_path: the rate at which images skip the last residual block; of earlier ones less.

    Raises:
        UserError: blocks are to be skipped, and the net has none that can be.
    """
    skipped = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        return _built(variant, num_classes=num_classes, drop_rate=drop_rate, **skipped)
    except TypeError:
        if not skipped:
            raise
    raise UserError(
        f"`drop_path` {drop_path}: timm has {variant.name} skip no blocks; leave it out."
    )


def _built(variant: Variant, **options: Any) -> Net:
    model: Net = timm.create_model(variant.timm_name, pretrained=False, **options)
    return model


def to_device(model: Net, device: torch.device) -> Net:
    """Move the model to the device, channels last: on a CPU it trains 1.5 to 2 times as fast."""
    on_device: Net = model.to(device)
    return on_device.to(memory_format=torch.channels_last)


def names_of(model: Net) -> TensorNames:
    """Name the tensors that FixRes adapts in a net."""
    return parts_of(model).names


def classifier_of(model: Net) -> nn.Linear:
    """Give a net's classifier."""
    return cast(nn.Linear, model.get_submodule(names_of(model).classifier))


def last_norm(model: Net) -> nn.BatchNorm2d:
    """Give a net's last norm: a batch norm wherever there are statistics."""
    return cast(nn.BatchNorm2d, model.get_submodule(names_of(model).norm))


def into_training(
    model: Net, *, frozen_norms: bool = False, classifier_alone: bool = False
) -> None:
    """Put the net into training mode, all of it or what is not frozen.

    Args:
        frozen_norms: batch norms normalise by their running statistics, which stay, as do their
            scales and shifts: timm's FrozenBatchNormAct2d, under the names that trained ones have.
        classifier_alone: all modules before the classifier are as in testing, and stay.
    """
    model.train().requires_grad_()
    if classifier_alone:
        model.requires_grad_(False)
        classifier = classifier_of(model).requires_grad_()
        for module in model.modules():
            module.training = module in (model, classifier)
    elif frozen_norms:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)


def share_frozen(model: Net, other: Net) -> None:
    """Have a net use all tensors of another that FixRes adapts in neither; they are equal."""
    names = names_of(model)
    for name, module in list(model.named_modules()):
        if name in (names.norm, names.classifier):
            continue
        theirs = other.get_submodule(name)
        module._parameters.update(theirs._parameters)
        module._buffers.update(theirs._buffers)


def _arithmetic(x: torch.Tensor, *, exact: bool) -> AbstractContextManager[object]:
    return float32() if exact else autocast(x.device)


def body(model: Net, x: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
    """Run the net's body, under autocast.

    Args:
        x: (N, 3, R, R) normalised pixels.
        exact: in float32 instead.

    Returns:
        (N, C, h, w) maps, bfloat16 from a GPU under autocast; h = w = ceil(R/32) where all padding
        is "same".
    """
    with _arithmetic(x, exact=exact):
        made: tuple[torch.Tensor, ...] = run(model, parts_of(model).body, x)
    return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def frozen_body(model: Net) -> Net:
    """Copy the net for passes that never train its body; :func:`body` runs the copy.

    Its batch norms are folded into the convolutions, and weights are rounded once to what autocast
    would round them to for each batch. Its maps differ from the net's by rounding. What comes
    after the body is left out.

    Args:
        model: in evaluation mode.
    """
    parts = parts_of(model)
    names = [parts.names.norm, parts.names.classifier, *([parts.linear] if parts.linear else [])]
    left_out = {id(model.get_submodule(name)): nn.Identity() for name in names}
    frozen = deepcopy(model, dict(left_out)).requires_grad_(False)
    fold_batch_norms(frozen)
    # Of no other module does autocast round the weights: norms that are left are computed with, and
    # take, their own in float32.
    for module in frozen.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.data = rounded_as_autocast(parameter.data)
    return frozen.to(memory_format=torch.channels_last)


def _split(model: Net, maps: torch.Tensor) -> list[torch.Tensor]:
    """Divide channels into those of the norm's way, and those of each map that is carried past."""
    carried = parts_of(model).carried
    return list(maps.split((maps.shape[1] - sum(carried), *carried), dim=1)) if carried else [maps]


def pre_norm(model: Net, maps: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
    """Compute the last norm's input under autocast, and pass on what is carried past it.

    Args:
        maps: (N, C, h, w), from :func:`body`.
        exact: in float32 instead.

    Returns:
        (N, F, h, w) float32, F the norm's channels, and after them those that are carried. Where
        the norm comes after the pooling, that is the pooling's input.
    """
    linear, (given, *carried) = parts_of(model).linear, _split(model, maps)
    if linear is None:
        return maps.float()
    with _arithmetic(maps, exact=exact):
        z: torch.Tensor = model.get_submodule(linear)(given)
    return (
        torch.cat([z.float(), *(one.float() for one in carried)], dim=1) if carried else z.float()
    )


def pre_norm_parameters(model: Net) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Give the weight (F, K) and the bias (F,) by which :func:`pre_norm` maps each position.

    They are of the first K channels of the maps, and of the F of the norm; float64, of the numbers
    that are computed with: under autocast rounded ones. None: the norm is given these K channels.
    """
    linear = parts_of(model).linear
    if linear is None:
        return None
    head = cast(nn.Conv2d, model.get_submodule(linear))
    assert head.kernel_size == (1, 1) and head.groups == 1
    weight = in_float64(rounded_as_autocast(head.weight.detach())).flatten(1)
    if head.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, in_float64(rounded_as_autocast(head.bias.detach()))


def norm_input(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Give the channels of :func:`pre_norm`, or of :func:`body`, that are not carried past."""
    return _split(model, z)[0]


def activations(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Norm, and do all else before the pooling: :func:`pre_norm` -> (N, P, h, w) float32."""
    parts, (given, *carried) = parts_of(model), _split(model, z)
    if parts.norm_after_pool:
        return z
    return _mixed(model, model.get_submodule(parts.names.norm)(given), carried)


def _mixed(model: Net, y: torch.Tensor, carried: list[torch.Tensor]) -> torch.Tensor:
    mix = parts_of(model).mix
    if mix is None:
        return y
    # Copies, as a sum or an activation may work in place, and others may use the same maps.
    (maps,) = run(model, mix, y, *(one.clone() for one in carried))
    return cast(torch.Tensor, maps)


def _averaged(model: Net, maps: torch.Tensor) -> torch.Tensor:
    pooled: torch.Tensor = model.get_submodule(parts_of(model).pool)(maps)
    return pooled.flatten(1)


def pooled(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Norm, activate and average: :func:`pre_norm` (N, F, h, w) -> (N, P) float32."""
    return _averaged(model, activations(model, z))


def neck(model: Net, averages: torch.Tensor) -> torch.Tensor:
    """Compute the classifier's input from averages over positions: (..., P) -> (..., F)."""
    parts = parts_of(model)
    if parts.neck is None:
        return averages
    rows = averages.reshape(-1, averages.shape[-1])
    (found,) = run(model, parts.neck, rows[:, :, None, None] if parts.neck_takes_maps else rows)
    return cast(torch.Tensor, found).reshape(*averages.shape[:-1], -1)


def normed(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Apply the last batch norm alone, without the activation that timm has in it: (N, F, h, w)."""
    norm = last_norm(model)
    return torch.nn.functional.batch_norm(
        norm_input(model, z),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        eps=norm.eps,
    )


def after_norm(model: Net, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Activate and average, from :func:`normed` on: as :func:`pooled`.

    Args:
        z: from :func:`pre_norm`, for what is carried past the norm.
    """
    norm = last_norm(model)
    if isinstance(norm, BatchNormAct2d):
        y = norm.act(norm.drop(y))
    return _averaged(model, _mixed(model, y, _split(model, z)[1:]))


def head_input(model: Net, z: torch.Tensor) -> torch.Tensor:
    """Compute the classifier's input from :func:`pre_norm`: (N, F) float32."""
    return neck(model, pooled(model, z))


def features(model: Net, x: torch.Tensor) -> torch.Tensor:
    """Compute the classifier's input: (N, 3, R, R) normalised pixels -> (N, F) float32."""
    return head_input(model, pre_norm(model, body(model, x)))


def classify(model: Net, found: torch.Tensor) -> torch.Tensor:
    """Compute logits of the classifier's input: (..., F) -> (..., C)."""
    logits: torch.Tensor = classifier_of(model)(found)
    return logits


def load_trunk(model: Net, state: Mapping[str, torch.Tensor]) -> None:
    """Copy ``state`` into ``model``; a classifier for another number of classes starts at zero.

    A net's own start (an EfficientNet's: uniform, 0.18 standard deviation for 10 classes) is meant
    for training from scratch: in fine-tuning its first gradients spoil the pretrained features.

    Raises:
        ValueError: names other than the classifier's are missing, or there are unknown ones.
    """
    own, head = model.state_dict(), names_of(model).of(CLASSIFIER)
    kept = {k: v for k, v in state.items() if k not in head or v.shape == own[k].shape}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    if unexpected or set(missing) - set(head):
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    if missing:
        nn.init.zeros_(classifier_of(model).weight)
        nn.init.zeros_(classifier_of(model).bias)
