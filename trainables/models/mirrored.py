"""Average a net's logits over each image and its mirror image, in one pass of twice as many images.

Logits are averaged, not probabilities: their mean is what a linear classifier makes of the mean of
the features. So classifiers are picked on features as without the mirror, and what is exported
gives logits, as every net does.
"""

from __future__ import annotations

import torch
from torch import nn


def mirror(x: torch.Tensor) -> torch.Tensor:
    """Mirror images left for right: (N, C, H, W)."""
    return x.flip(-1)


class MirrorAveraged(nn.Module):
    """A net that gives the mean of another's logits over an image and its mirror image."""

    def __init__(self, net: nn.Module):
        """Take the net, which is not copied."""
        super().__init__()
        self.net = net
        self.pretrained_cfg = getattr(net, "pretrained_cfg", None)  # where timm finds its transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the logits of normalised pixels: (N, 3, R, R) -> (N, C)."""
        logits: torch.Tensor = self.net(torch.cat([x, mirror(x)]))
        return logits.reshape(2, -1, logits.shape[-1]).mean(dim=0)
