"""Know ImageNet's 1,000 classes by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainables.models.weights import Weights

IMAGENET_CLASSES = 1000


def names_imagenet(classes: Sequence[str]) -> bool:
    """Whether classes are ImageNet's, in the order of its classifiers.

    Each is named by its WordNet id, as n01440764, or by a word for it, as tench or goldfish.
    """
    if len(classes) != IMAGENET_CLASSES:
        return False
    from timm.data import ImageNetInfo  # late: it imports torch, which takes seconds

    info = ImageNetInfo("imagenet-1k")
    return all(
        name == synset or _plain(name) in map(_plain, description.split(","))
        for name, synset, description in zip(
            classes, info.label_names(), info.label_descriptions(), strict=True
        )
    )


def _plain(words: str) -> str:
    return words.strip().lower().replace("_", " ")


def with_fitting_classifier(weights: Weights, classes: Sequence[str]) -> Weights:
    """Give up a classifier of ImageNet's classes where the images are of 1,000 others.

    The user's own weights keep theirs: it may be of any classes.
    """
    other_number = weights.classes != IMAGENET_CLASSES or len(classes) != IMAGENET_CLASSES
    if other_number or weights.are_given or names_imagenet(classes):
        return weights
    return replace(weights, keep_classifier=False)
