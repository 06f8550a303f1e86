"""Count the bytes that checkpoints, maps and features of a net take on a disk."""

from __future__ import annotations

from functools import cache

import torch

from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.transforms.resolution import feature_side

FLOAT_BYTES = 4  # all but maps is stored in float32


@cache
def checkpoint_bytes(variant: str, classes: int) -> int:
    """Count the bytes of a net's weights and statistics, in float32."""
    net = _net(variant, classes)
    return FLOAT_BYTES * sum(t.numel() for t in (*net.parameters(), *net.buffers()))


@cache
def map_bytes(variant: str, res: int, number_bytes: int) -> int:
    """Count the bytes of one image's maps before ``conv_head`` at ``res`` px.

    Args:
        number_bytes: of each number; 2 from a GPU, 4 from a CPU.
    """
    channels: int = _net(variant, 1).conv_head.in_channels
    return number_bytes * channels * feature_side(res) ** 2


@cache
def feature_bytes(variant: str) -> int:
    """Count the bytes of one image's features: the classifier's input, with its label."""
    return FLOAT_BYTES * int(_net(variant, 1).num_features) + 8


@cache
def _net(variant: str, classes: int) -> Net:
    with torch.device("meta"):
        return backbone.build(variants.get(variant), classes)
