"""A trunk's spec and reports, of no data and no weights: what is stored, resumed and read back."""

from dataclasses import replace
from typing import Any

from trainables.models.weights import Weights
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import EpochReport, TrunkSpec

SPEC = TrunkSpec(
    variant="lite0",
    train_res=32,
    weights=Weights(variant="lite0", source="none", digest="none", name=None),
    images="images",
    recipe=Recipe(epochs=3, batch_size=8),
    hyper=Hyper(lr=0.1, weight_decay=0.05, label_smoothing=0.1),
    seed=0,
)


def report(epoch: int, **changes: Any) -> EpochReport:
    plain = EpochReport(epoch=epoch, loss=0.5, train_top1=0.25, images=8, lr=0.1, seconds=1.5, at=7)
    return replace(plain, **changes)
