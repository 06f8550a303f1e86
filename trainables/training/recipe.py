"""How a trunk is trained: the recipe that a sweep's trunks share, and each one's hyperparameters.

Imports no torch: the command line takes its defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables.transforms.augmentation import Augmentation

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """The hyperparameters that the search proposes for a trunk."""

    lr: float
    weight_decay: float
    label_smoothing: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training settings that all trunks of a sweep share."""

    epochs: int
    batch_size: int
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.5
    ema_decay: float = 0.0  # 0: no moving average
    dropout: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
