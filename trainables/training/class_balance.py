"""Make rare classes count more: draw them more often, or weigh them in the loss. Imports no torch.

Both multiply what an image of a class counts for by the same factor, one in how often it is seen,
the other in each gradient: together they would do it twice.
"""

from __future__ import annotations

import numpy as np

from trainables.errors import UserError
from trainables.training.recipe import ClassWeights, Sampling

_POWERS: dict[ClassWeights, float] = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}
_SALT = 0x5A3E  # sets these draws apart from those of an epoch's order and crops


def check_balance(sampling: Sampling, weights: ClassWeights) -> None:
    """Check that classes are not balanced twice.

    Raises:
        UserError: they would be.
    """
    if sampling != "uniform" and weights != "none":
        raise UserError(
            f"`sampling` {sampling} and `class_weights` {weights} would count rare classes twice: "
            "give one of them."
        )


def fitted_class_weights(sampling: Sampling, weights: ClassWeights) -> ClassWeights:
    """Say how a classifier weighs classes that is to see them as training does.

    It is fitted on every image alike: where training draws balanced, balanced weights make classes
    count alike.
    """
    return "balanced" if sampling == "balanced" else weights


def class_weights(labels: np.ndarray, classes: int, kind: ClassWeights) -> np.ndarray | None:
    """Compute what an image of each class weighs in the loss.

    "balanced" is the inverse of the class's number of images, "sqrt" the root of that; the mean
    over the images is 1. A class without images weighs 1, as without weights: only label
    smoothing sees it.

    Args:
        labels: (N,) int64, of the train images.
        classes: C, their number.

    Returns:
        (C,) float64; None for "none".
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.ones(classes)
    weights[present] = counts[present] ** -_POWERS[kind]
    weights[present] /= weights[labels].mean()
    return weights


def drawn_images(labels: np.ndarray, sampling: Sampling, *, seed: int, epoch: int) -> np.ndarray:
    """Draw the images of an epoch, as many as there are: in "uniform" sampling each once.

    "balanced" draws every class that has images equally often, to within one, in each epoch and
    over all epochs so far; over these, the images of a class are, too. To that end classes take
    turns in one endless sequence, of which epoch e is the e-th part of N draws, and each class goes
    through its images in a random order, then in another. Nothing is carried from epoch to epoch:
    any of them can be drawn by itself.

    Args:
        labels: (N,) int64, of the train images.
        epoch: from 1.

    Returns:
        (N,) int64 positions, not shuffled.
    """
    count = len(labels)
    if sampling == "uniform":
        return np.arange(count)
    by_class = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[by_class], return_index=True)
    members = np.split(by_class, starts[1:])
    turns = np.random.default_rng((seed, _SALT)).permutation(len(present))
    drawn = []
    for turn, c in enumerate(turns.tolist()):
        # Of the first t draws so many were of the class that has this turn.
        start, stop = (-(-(t - turn) // len(present)) for t in ((epoch - 1) * count, epoch * count))
        drawn.append(_draws(members[c], start, stop, (_SALT, seed, c)))
    return np.concatenate(drawn)


def _draws(members: np.ndarray, start: int, stop: int, seed: tuple[int, ...]) -> np.ndarray:
    """Give the draws from ``start`` to ``stop`` of one class, which is shuffled anew each round."""
    size = len(members)
    first, last = start // size, -(-stop // size)  # rounds
    bits = np.random.PCG64(seed)
    bits.advance(first * size)  # A round takes one number for each image.
    order = np.random.Generator(bits).random((last - first, size)).argsort(axis=1)
    drawn: np.ndarray = members[order].ravel()[start - first * size : stop - first * size]
    return drawn
