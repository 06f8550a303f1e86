"""The moving average of a model in training."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn


class MovingAverage(ModelEmaV3):
    """Follows the weights of a model as timm's moving average does, in fewer launches on a GPU.

    timm's copies the count of batches of each batch norm by itself, and looks all tensors up by
    their names at each step.
    """

    def __init__(self, model: nn.Module, decay: float, *, warmup: bool = False):
        """Begin with the weights of a model that is on the device where it stays.

        Args:
            warmup: whether the decay is small at first, so that the start does not count for long.
        """
        super().__init__(model, decay=decay, use_warmup=warmup)
        pairs = list(
            zip(self.module.state_dict().values(), model.state_dict().values(), strict=True)
        )
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averages, self._weights = ([pair[i] for pair in averaged] for i in (0, 1))
        self._kept_counts, self._counts = ([pair[i] for pair in counts] for i in (0, 1))

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Move the average a step towards the model that it was begun with."""
        torch._foreach_lerp_(self._averages, self._weights, weight=1.0 - decay)
        if self._counts:
            torch._foreach_copy_(self._kept_counts, self._counts)
