"""Correct features for statistics of the last batch norm that were known only after them.

A feature is the mean over positions of act(y), with y = g (z - mean) / s + b, s the deviation.
Under other statistics mean* and s*, each y becomes

    y* = y + g d + (r - 1) (y - b)        r = s / s*,   d = (mean - mean*) / s*

which is linear in two numbers a channel that are the same for all images. So to first order

    feature* = feature + g d slope + (r - 1) stretch

with two numbers a feature, slope = mean act'(y) and stretch = mean act'(y) (y - b), which are made
beside it. What is left out is quadratic in how far the statistics were off: of n images of a random
sample it falls as 1/n, while uncorrected features are off by 1/sqrt(n). The activation and the
pooling are run, and differentiated, as the net has them; nothing is presumed but that a feature
depends on its own channel alone. What a net does after its pooling is done to corrected features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainables.fixres.features import NormStatistics
from trainables.models import backbone
from trainables.models.backbone import Net


@dataclass(frozen=True)
class FeatureSlopes:
    """Averages that are pooled, and how they would move with the statistics: (N, F) each."""

    features: torch.Tensor
    slope: torch.Tensor
    stretch: torch.Tensor


def feature_slopes(model: Net, z: torch.Tensor) -> FeatureSlopes:
    """Compute pooled features, and their slopes, under the last batch norm as it stands.

    Args:
        z: (N, F, h, w) float32, from :func:`.backbone.pre_norm`; no inference tensor.
    """
    with torch.no_grad():
        y = backbone.normed(model, z)
    around = y - backbone.last_norm(model).bias.detach()[:, None, None]
    with torch.enable_grad():
        start = y.requires_grad_(True)
        # The activation may work in place, which it must not do on what is differentiated by.
        features = backbone.after_norm(model, start.clone(), z)
        (by_position,) = torch.autograd.grad(features.sum(), start)
    slope, stretch = by_position.sum(dim=(2, 3)), (by_position * around).sum(dim=(2, 3))
    return FeatureSlopes(features.detach(), slope, stretch)


def corrected(
    found: FeatureSlopes, model: Net, before: NormStatistics, now: NormStatistics
) -> torch.Tensor:
    """Correct features, to first order, for statistics other than those they were made under.

    Returns:
        (N, F) float32, on the device of the features.
    """
    norm, device = backbone.last_norm(model), found.features.device
    deviations = [(s.var + norm.eps).sqrt() for s in (before, now)]
    ratio = deviations[0] / deviations[1]
    moved = norm.weight.detach().cpu().double() * (before.mean - now.mean) / deviations[1]
    by_slope, by_stretch = (n.float().to(device) for n in (moved, ratio - 1))
    change = by_slope * found.slope.float() + by_stretch * found.stretch.float()
    moved_features: torch.Tensor = found.features.float() + change
    return moved_features
