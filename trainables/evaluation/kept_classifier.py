"""Check the order of the classes of a classifier that is kept: do its outputs mean these classes?

Class folders are numbered by their names, and programs differ in how names sort: a classifier of
other hands may have "2" before "10". Its accuracy on a few labelled images tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from trainables.data.image_set import SplitImages
from trainables.evaluation.confidence import paired_difference, wilson
from trainables.evaluation.inference import logits_of
from trainables.models import backbone, variants
from trainables.models.device import pick_device
from trainables.models.weights import Weights, stored_state
from trainables.sources.class_names import natural_key
from trainables.storage.artifact_store import Store
from trainables.transforms.eval_transform import EvalTransform

BATCH_SIZE = 32
MIN_GAIN = 0.1  # of accuracy, and so many standard errors, from which on an order fits better
MIN_GAIN_ERRORS = 2.5
CHANCE_Z = 3.0  # of the interval that chance has to be below


@dataclass(frozen=True, kw_only=True)
class OrderCheck:
    """How well the outputs of a classifier fit the classes in their order, and in another."""

    n: int
    given: float
    """Share of the images that are right with the classes in their order."""
    likely: str | None
    """The order that fits far better: "natural", "string" or "another"; None: there is none."""
    best: float
    """Share of right ones in the likely order, or in the given one where there is none."""
    is_chance: bool
    """Whether the given order fits no better than always saying one class."""


def check_order(classes: Sequence[str], labels: np.ndarray, predicted: np.ndarray) -> OrderCheck:
    """Compare the given order of classes with those that other programs would have.

    Args:
        labels, predicted: (n,) positions in ``classes``, and of the largest output.
    """
    right = predicted == labels
    best, likely = right, None
    for name, order in other_orders(classes).items():
        meant = np.array([classes.index(one) for one in order])
        if _is_far_better(meant[predicted] == labels, best):
            best, likely = meant[predicted] == labels, name
    permuted = _right_if_permuted(len(classes), labels, predicted)
    if _is_far_better(permuted, best):  # an order that only happens to fit better is not named
        best, likely = permuted, "another"
    chance = np.bincount(labels).max() / len(labels)
    return OrderCheck(
        n=len(labels),
        given=float(right.mean()),
        likely=likely,
        best=float(best.mean()),
        is_chance=wilson(int(right.sum()), len(labels), CHANCE_Z)[0] <= chance,
    )


def other_orders(classes: Sequence[str]) -> dict[str, list[str]]:
    """The orders that programs put classes into, other than the one they are in."""
    orders = {"natural": sorted(sorted(classes), key=natural_key), "string": sorted(classes)}
    return {name: order for name, order in orders.items() if order != list(classes)}


def _is_far_better(right: np.ndarray, other: np.ndarray) -> bool:
    gain, error = paired_difference(right, other)
    return gain > max(MIN_GAIN, MIN_GAIN_ERRORS * error)


def _right_if_permuted(classes: int, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Which images are right if outputs are permuted as fits the other half of them best."""
    right = np.zeros(len(labels), dtype=bool)
    side = np.empty(len(labels), dtype=np.int64)
    for label in range(classes):  # each half has its share of each class
        of_class = np.flatnonzero(labels == label)
        side[of_class] = np.arange(len(of_class)) % 2
    for half in (0, 1):
        fitted, held_out = side == half, side != half
        counts = np.zeros((classes, classes))
        np.add.at(counts, (predicted[fitted], labels[fitted]), 1)
        outputs, meant = linear_sum_assignment(counts, maximize=True)
        meaning = np.empty(classes, dtype=np.int64)
        meaning[outputs] = meant
        right[held_out] = meaning[predicted[held_out]] == labels[held_out]
    return right


def predictions_of(
    weights: Weights, images: SplitImages, classes: int, res: int, count: int, store: Store
) -> np.ndarray:
    """Predict the first ``count`` images by weights as they are: (count,) positions.

    Args:
        res: px; the images are cropped as when the variant's weights were tested.
    """
    variant = variants.get(weights.variant)
    preprocessing = variants.preprocessing(variant)
    transform = EvalTransform(
        test_res=res,
        crop_pct=preprocessing.crop_pct,
        interpolation=preprocessing.interpolation,
    )
    model = backbone.build(variant, classes)
    state = stored_state(weights, store)
    assert state is not None, "there is no classifier to check"
    backbone.load_trunk(model, state)
    device = pick_device()
    model = backbone.to_device(model, device)
    view = np.stack([transform(images[i]) for i in range(count)])
    logits = logits_of(model, view, preprocessing, batch_size=BATCH_SIZE, device=device)
    return np.asarray(logits.argmax(dim=1).numpy())
