"""Find the shapes of what a net keeps of an image between its parts, without computing it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from trainables.models import backbone, variants
from trainables.models.backbone import Net


@dataclass(frozen=True, kw_only=True)
class MapShape:
    """The maps of one image."""

    channels: int  # as the body leaves them
    normed: int  # channels of the last norm's input, with what is carried past it
    side: int  # px of a map

    def size(self, number_bytes: int) -> int:
        """Count the bytes that they take, of so many a number."""
        return number_bytes * self.channels * self.side**2


@cache
def map_shape(variant: str, res: int) -> MapShape:
    """Find the shape of a variant's maps at ``res`` px, on the meta device."""
    net = net_on_meta(variant)
    with torch.no_grad():
        maps = backbone.body(net, torch.empty(1, 3, res, res, device="meta"))
        z = backbone.pre_norm(net, maps)
    return MapShape(channels=maps.shape[1], normed=z.shape[1], side=maps.shape[-1])


@cache
def feature_count(variant: str) -> int:
    """Count the numbers that the classifier is given of one image."""
    return backbone.classifier_of(net_on_meta(variant)).in_features


@cache
def net_on_meta(variant: str) -> Net:
    """Build a variant that has a single class, and no weights."""
    with torch.device("meta"):
        return backbone.build(variants.get(variant), 1).eval()
