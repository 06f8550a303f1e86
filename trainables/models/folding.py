"""Fold batch norms into the convolutions before them: what a frozen net computes, in fewer steps.

In eval mode a batch norm scales and shifts each channel by constants, and so does a convolution
with its weights and bias (Jacob et al., arXiv:1712.05877, section 3.2).
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(net: nn.Module) -> None:
    """Fold, in place, each batch norm into the convolution that comes right before it.

    The activation of timm's batch norms stays where the batch norm was. A batch norm that follows
    no convolution of its parent stays.

    Args:
        net: in eval mode; its modules stand in the order in which they run.
    """
    for parent in net.modules():
        convolution: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                _fold(convolution, child)
                setattr(parent, name, _after(child))
            # An activation or an image-wise part in between would not commute with the folding.
            convolution = child if isinstance(child, nn.Conv2d) else None


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
