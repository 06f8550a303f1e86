"""Count the bytes that checkpoints, maps and features of a net take on a disk."""

from __future__ import annotations

from functools import cache

import torch

from trainables.models import backbone, variants
from trainables.models.map_shape import feature_count, map_shape

FLOAT_BYTES, HALF_BYTES = 4, 2
MIN_PREFIX = 256  # images that statistics are first taken of, at least: fewer are a poor sample


@cache
def checkpoint_bytes(variant: str, classes: int) -> int:
    """Count the bytes of a net's weights and statistics, in float32."""
    with torch.device("meta"):
        net = backbone.build(variants.get(variant), classes)
    return FLOAT_BYTES * sum(t.numel() for t in (*net.parameters(), *net.buffers()))


@cache
def map_bytes(variant: str, res: int, number_bytes: int) -> int:
    """Count the bytes of one image's maps, as a net's body leaves them at ``res`` px.

    Args:
        number_bytes: of each number; 2 from a GPU, 4 from a CPU.
    """
    return map_shape(variant, res).size(number_bytes)


def prefix(variant: str, res: int, map_gb: float, images: int) -> int | None:
    """Count the images whose maps at ``res`` px take ``map_gb``; None: those of all do not.

    Numbers count as float32 whatever they are stored in, so that all devices keep the same images.

    Args:
        images: of the largest split.
    """
    kept = max(MIN_PREFIX, int(map_gb * 1e9 / map_bytes(variant, res, FLOAT_BYTES)))
    return None if images <= kept else kept


@cache
def feature_bytes(variant: str, number_bytes: int = FLOAT_BYTES) -> int:
    """Count the bytes of one image's features: the classifier's input, with its label.

    Args:
        number_bytes: of each number; 2 where the set is streamed.
    """
    return number_bytes * feature_count(variant) + 8
