"""Know ImageNet's 1,000 classes by their names."""

from __future__ import annotations

from collections.abc import Sequence

CLASSES = 1000


def names_imagenet(classes: Sequence[str]) -> bool:
    """Whether classes are ImageNet's, in the order of its classifiers.

    Each is named by its WordNet id, as n01440764, or by a word for it, as tench or goldfish.
    """
    if len(classes) != CLASSES:
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
