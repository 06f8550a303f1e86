"""Settings of the classifier's fit: the grid that is tried, and the setting that was picked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

HeadOptimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True, kw_only=True)
class HeadSetting:
    """How one classifier was fitted. ``epochs``: after how many val liked it best."""

    optimizer: HeadOptimizer
    lr: float
    label_smoothing: float
    weight_decay: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class HeadGrid:
    """All settings to try: their product. Weight decay is on all of the head, bias included.

    ``epochs``: at most. ``patience``: epochs without a better val after which a setting is given
    up. ``momentum`` is SGD's; its weight decay is part of the gradient, AdamW's is not.
    """

    lr: tuple[float, ...]
    label_smoothing: tuple[float, ...]
    weight_decay: tuple[float, ...] = (1e-4,)
    optimizer: tuple[HeadOptimizer, ...] = ("sgd",)
    epochs: int
    patience: int
    batch_size: int
    momentum: float = 0.9

    @property
    def settings(self) -> tuple[HeadSetting, ...]:
        """Untrained. In this order the first wins where val sees no difference."""
        runs = product(self.optimizer, self.lr, self.label_smoothing, self.weight_decay)
        return tuple(
            HeadSetting(optimizer=name, lr=lr, label_smoothing=s, weight_decay=decay, epochs=0)
            for name, lr, s, decay in dict.fromkeys(runs)
        )

    def only(self, setting: HeadSetting) -> HeadGrid:
        """The grid of one setting, for just its epochs."""
        return replace(
            self,
            lr=(setting.lr,),
            label_smoothing=(setting.label_smoothing,),
            weight_decay=(setting.weight_decay,),
            optimizer=(setting.optimizer,),
            epochs=setting.epochs,
        )
