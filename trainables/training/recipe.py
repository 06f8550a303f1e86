"""Settings of a trunk's training: the recipe that a sweep's trunks share, and hyperparameters.

Imports no torch: the command line takes its defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables.storage.hashing import added_later
from trainables.transforms.augmentation import Augmentation, AutoAugment, Distortions

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
Sampling = Literal["uniform", "balanced"]
ClassWeights = Literal["none", "sqrt", "balanced"]
Start = Literal["weights", "probe"]


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """The hyperparameters that the search proposes for a trunk."""

    lr: float  # peak
    weight_decay: float
    label_smoothing: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training settings that all trunks of a sweep share."""

    epochs: int  # 0: the trunk is the pretrained net as it is
    batch_size: int  # images of a step, by all workers together
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.5  # in which the learning rate rises to its peak
    ema_decay: float = 0.0  # 0: no moving average
    dropout: bool = True  # at the variant's own rate
    augmentation: Augmentation = field(default_factory=Augmentation)
    sampling: Sampling = added_later("uniform")  # which images an epoch draws
    class_weights: ClassWeights = added_later("none")  # in the loss
    ema_warmup: bool = added_later(False)  # whether the moving average begins short
    drop_path: float = added_later(0.0)  # of the last residual block; 0: none is left out
    layer_decay: float = added_later(1.0)  # of the learning rate, from each layer to the one before
    clip_grad: float = added_later(0.0)  # largest norm of all gradients together; 0: any
    auto_augment: AutoAugment = added_later("none")  # as the next three, see Distortions
    mixup: float = added_later(0.0)
    cutmix: float = added_later(0.0)
    random_erasing: float = added_later(0.0)
    freeze_batch_norm: bool = added_later(False)  # whether they stay as they come
    start: Start = added_later("weights")  # of the classifier, but for trunks that have a parent
    head_only_epochs: int = added_later(0)  # the first ones, in which the classifier trains alone

    @property
    def distortions(self) -> Distortions:
        """What crops go through after the flip."""
        return Distortions(
            auto_augment=self.auto_augment,
            mixup=self.mixup,
            cutmix=self.cutmix,
            random_erasing=self.random_erasing,
        )
