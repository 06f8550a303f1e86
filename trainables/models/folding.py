"""Fold batch norms into the convolutions before them: what a frozen net computes, in fewer steps.

In eval mode a batch norm scales and shifts each channel by constants, and so does a convolution
with its weights and bias (Jacob et al., arXiv:1712.05877, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@dataclass(frozen=True, kw_only=True)
class Foldable:
    """A batch norm, and the convolution of the same parent that comes right before it."""

    parent: nn.Module
    name: str  # of the norm, in its parent
    norm: nn.BatchNorm2d
    convolution: nn.Conv2d


def foldable(net: nn.Module) -> Iterator[Foldable]:
    """Find the batch norms that can be folded.

    Args:
        net: its modules stand in the order in which they run.
    """
    for parent in net.modules():
        convolution: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                yield Foldable(parent=parent, name=name, norm=child, convolution=convolution)
            # An activation or an image-wise part in between would not commute with the folding.
            convolution = child if isinstance(child, nn.Conv2d) else None


def fold_batch_norms(net: nn.Module) -> None:
    """Fold, in place, each batch norm into the convolution that comes right before it.

    The activation of timm's batch norms stays where the batch norm was. A batch norm that follows
    no convolution of its parent stays.

    Args:
        net: in eval mode, and as of :func:`foldable`.
    """
    for found in list(foldable(net)):
        _fold(found.convolution, found.norm)
        setattr(found.parent, found.name, _after(found.norm))


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight, convolution.bias = weight, bias


def _after(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what timm's batch norm does after normalising."""
    return nn.Sequential(*(part for part in norm.children() if not isinstance(part, nn.Identity)))
