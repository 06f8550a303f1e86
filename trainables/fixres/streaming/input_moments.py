"""Sum up the first two moments of maps: exact statistics of what is linear in them.

The last batch norm's input is linear in the maps x that a net's body leaves (:mod:`.backbone`),
z = W x + b at each position, or is these maps. So its mean and variance over all images follow from
the mean m and the covariance C of x:

    mean z = W m + b        var z = diag(W C W')

In an EfficientNet C has a quarter of the channels on either side that z has, so that this costs a
quarter of a pass of ``conv_head``; and no image need be kept, or seen again, once its moments are
summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainables.fixres.features import NormStatistics
from trainables.models import backbone
from trainables.models.backbone import Net, State
from trainables.models.device import float64_device, in_float64, sums_dtype


@dataclass
class InputMoments:
    """Moments of the maps of the images so far, about a shift that the first of them set.

    Products are float32, of values about the shift; their sums are float64.
    """

    shift: torch.Tensor  # (C,) float32: near the mean, so that squares do not cancel
    total: torch.Tensor  # (C,) float64: the sum of x - shift
    products: torch.Tensor  # (C, C) float64: the sum of (x - shift) (x - shift)'
    count: int = 0  # positions of all images

    @classmethod
    def about(cls, maps: torch.Tensor) -> InputMoments:
        """Begin with no image, about the mean of these maps (N, C, h, w)."""
        shift = maps.float().mean(dim=(0, 2, 3))
        total = torch.zeros_like(in_float64(shift))
        return cls(shift, total, torch.outer(total, total))

    def add(self, maps: torch.Tensor) -> None:
        """Count some more images: (N, C, h, w), on the device of those before."""
        x = maps.float().permute(0, 2, 3, 1).reshape(-1, maps.shape[1]) - self.shift
        self.total += x.sum(dim=0, dtype=sums_dtype(x.device)).to(self.total.device)
        self.products += (x.T @ x).to(self.products.device)
        self.count += len(x)

    def statistics(self, model: Net) -> NormStatistics:
        """Compute the statistics of the last batch norm's input over all images so far."""
        linear = backbone.pre_norm_parameters(model)
        around = self.total / self.count
        covariance = self.products / self.count - torch.outer(around, around)
        if linear is None:
            mean, var = in_float64(self.shift) + around, covariance.diagonal().clamp_min(0)
        else:
            weight, bias = (part.to(self.total) for part in linear)
            mean = weight @ (in_float64(self.shift) + around) + bias
            var = ((weight @ covariance) * weight).sum(dim=1).clamp_min(0)
        unbiased = var * (self.count / max(1, self.count - 1))
        return NormStatistics(mean.cpu(), unbiased.cpu())

    def state(self) -> State:
        """Give all that :meth:`from_state` needs."""
        sums = {"shift": self.shift, "total": self.total, "products": self.products}
        return {**sums, "count": torch.tensor(self.count)}

    @classmethod
    def from_state(cls, state: State, device: torch.device) -> InputMoments:
        """Go on from what :meth:`state` has given."""
        total, products = (state[n].to(float64_device(device)) for n in ("total", "products"))
        return cls(state["shift"].to(device), total, products, int(state["count"]))
