"""Say what makes classes count otherwise than by their images, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sweeps.planning.options.words import option
from sweeps.planning.plan import Plan
from trainables.training.class_balance import class_weights
from trainables.training.recipe import ClassWeights


def class_balance_in_words(plan: Plan) -> str:
    """Say what makes classes count otherwise than by their images; "" where nothing does."""
    trunks, of_heads = plan.spec.trunks, plan.head_class_weights
    varied = [name for name in ("sampling", "class_weights") if name in plan.search.varied]
    if varied:
        drawn = ", ".join(f"{option(name)} {plan.search.space[name]}" for name in varied)
        return (
            f"as the search draws it: {drawn}; class weights in the loss of classifiers: "
            f"{' or '.join(of_heads)}"
        )
    of_trunks = trunks.class_weights if trunks.epochs else "none"
    parts = []
    if trunks.sampling == "balanced":
        parts.append(_draws_in_words(plan))
    losses: dict[str, tuple[ClassWeights, ...]]
    losses = {"training": (of_trunks,), "classifiers": of_heads}
    if of_heads == (of_trunks,):
        losses = {"training and of classifiers": of_heads}
    for of_what, kinds in losses.items():
        if kinds != ("none",):
            picks = ", whichever val picks" if len(kinds) > 1 else ""
            parts.append(f"class weights in the loss of {of_what}: {' or '.join(kinds)}{picks}")
    if not parts:
        return ""
    if of_heads == ("none",):
        parts.append("none in that of classifiers")
    parts += _weights_in_words(plan, [kind for kind in (of_trunks, *of_heads) if kind != "none"])
    absent = sum(size == 0 for size in plan.train_class_sizes)
    if absent:
        parts.append(f"{absent} class(es) without an image in train count as before")
    return "; ".join(parts)


def _draws_in_words(plan: Plan) -> str:
    """Say what an epoch of balanced draws is, and how often it has an image of a class."""
    count = plan.counts["train"]
    share = count / sum(size > 0 for size in plan.train_class_sizes)
    rare, frequent = _rarest_and_most_frequent(plan)
    times = [share / plan.train_class_sizes[c] for c in (rare, frequent)]
    return (
        f"balanced sampling: an epoch draws {count:,} images, as many as train has, and about "
        f"{share:.3g} of each class; it sees an image of {_with_size(plan, rare)} {times[0]:.3g} "
        f"times, of {_with_size(plan, frequent)} {times[1]:.3g} times"
    )


def _weights_in_words(plan: Plan, kinds: Sequence[ClassWeights]) -> Iterator[str]:
    """Say what an image of a class weighs by each kind of weights, which is named among several."""
    labels = np.repeat(np.arange(len(plan.classes)), plan.train_class_sizes)
    rare, frequent = _rarest_and_most_frequent(plan)
    for kind in dict.fromkeys(kinds):
        weights = class_weights(labels, len(plan.classes), kind)
        assert weights is not None
        which = f"by {kind} ones " if len(set(kinds)) > 1 else ""
        yield (
            f"{which}an image of {_with_size(plan, rare)} weighs {weights[rare]:.3g}, of "
            f"{_with_size(plan, frequent)} {weights[frequent]:.3g}, on average 1"
        )


def _rarest_and_most_frequent(plan: Plan) -> tuple[int, int]:
    """Find the classes with the fewest and the most images in train, one at least."""
    sizes = plan.train_class_sizes
    present = [c for c, size in enumerate(sizes) if size]
    return min(present, key=lambda c: sizes[c]), max(present, key=lambda c: sizes[c])


def _with_size(plan: Plan, c: int) -> str:
    return f"{plan.classes[c]} ({plan.train_class_sizes[c]:,} in train)"
