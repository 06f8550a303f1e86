"""Settings of the classifier's fit: the grid that is tried, and the setting that was picked.

Imports no torch: the arms, which the command line names, hold settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from trainables.evaluation.class_metrics import Metric
from trainables.storage.hashing import added_later
from trainables.training.recipe import ClassWeights

HeadOptimizer = Literal["sgd", "adamw"]
HeadClassWeights = Literal["trunk", "none", "sqrt", "balanced"]  # trunk: as in its training


@dataclass(frozen=True, kw_only=True)
class HeadSetting:
    """How one classifier was fitted."""

    optimizer: HeadOptimizer
    lr: float
    label_smoothing: float
    weight_decay: float
    epochs: int  # after which it was best on val; 0: it is where the fit began
    class_weights: ClassWeights = added_later("none")  # in the loss


@dataclass(frozen=True, kw_only=True)
class HeadGrid:
    """All settings to try, the product of the tuples, and what they have in common."""

    lr: tuple[float, ...]  # constant over the epochs
    label_smoothing: tuple[float, ...]
    weight_decay: tuple[float, ...] = (1e-4,)  # on the whole head, bias included
    optimizer: tuple[HeadOptimizer, ...] = ("sgd",)  # only SGD decays in its gradient
    epochs: int  # at most
    patience: int  # epochs without a better val, after which a setting is given up
    batch_size: int  # images
    momentum: float = 0.9  # for SGD
    metric: Metric = added_later("top1")  # by which val picks setting and epoch
    class_weights: tuple[ClassWeights, ...] = added_later(("none",))

    @property
    def settings(self) -> tuple[HeadSetting, ...]:
        """The settings, with 0 epochs; of those that are equal on val, the first wins."""
        runs = product(
            self.optimizer, self.lr, self.label_smoothing, self.weight_decay, self.class_weights
        )
        return tuple(
            HeadSetting(
                optimizer=name,
                lr=lr,
                label_smoothing=smoothing,
                weight_decay=decay,
                epochs=0,
                class_weights=weights,
            )
            for name, lr, smoothing, decay, weights in dict.fromkeys(runs)
        )

    def only(self, setting: HeadSetting) -> HeadGrid:
        """Make the grid of one setting, for just its epochs."""
        return replace(
            self,
            lr=(setting.lr,),
            label_smoothing=(setting.label_smoothing,),
            weight_decay=(setting.weight_decay,),
            optimizer=(setting.optimizer,),
            class_weights=(setting.class_weights,),
            epochs=setting.epochs,
        )
