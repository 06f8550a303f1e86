"""What makes classes count otherwise, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sweeps.planning.class_balance import class_balance_in_words
from tests.factories import plan_of, spec_with
from trainables.training.class_balance import drawn_images


def words(sizes: tuple[int, ...] = (60, 48, 12), **options: Any) -> str:
    """Of classes cat, dog, fox, with so many images in train."""
    plan = plan_of(spec_with(**options), train=sum(sizes))
    return class_balance_in_words(replace(plan, train_class_sizes=sizes))


def test_nothing_is_said_of_classes_that_count_by_their_images() -> None:
    assert words() == words(head_class_weights=("none",)) == words((0, 4, 4)) == ""


def test_what_an_epoch_of_balanced_draws_is_is_said_as_it_is_drawn() -> None:
    told = words(sampling="balanced")
    labels = np.repeat([0, 1, 2], [60, 48, 12])
    epochs = [drawn_images(labels, "balanced", seed=0, epoch=e) for e in range(1, 11)]
    seen = np.bincount(labels[np.concatenate(epochs)]) / 10
    assert seen.tolist() == [40, 40, 40]
    assert told.startswith(
        "balanced sampling: an epoch draws 120 images, as many as train has, and about 40 of each "
        f"class; it sees an image of fox (12 in train) {40 / 12:.3g} times, of cat (60 in train) "
        f"{40 / 60:.3g} times; class weights in the loss of classifiers: balanced; "
    )
    assert told.endswith("; an image of fox (12 in train) weighs 3.33, of cat (60 in train) "
                         "0.667, on average 1")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"class_weights": "balanced"},
            "class weights in the loss of training and of classifiers: balanced; an image of fox ",
        ),
        (
            {"class_weights": "sqrt", "head_class_weights": ("none",)},
            "class weights in the loss of training: sqrt; none in that of classifiers; an image ",
        ),
        (
            {"head_class_weights": ("none", "balanced")},
            "class weights in the loss of classifiers: none or balanced, whichever val picks; an i",
        ),
        (
            {"class_weights": "balanced", "epochs": 0},
            "class weights in the loss of classifiers: balanced; an image of fox ",
        ),
    ],
)
def test_weights_are_told_with_the_loss_that_they_are_in(
    options: dict[str, Any], told: str
) -> None:
    assert words(**options).startswith(told)


def test_weights_of_several_kinds_are_told_apart() -> None:
    told = words(class_weights="sqrt", head_class_weights=("balanced", "none", "sqrt"))
    head, by_sqrt, by_balanced = told.rsplit("; ", 2)
    assert head.endswith("classifiers: balanced or none or sqrt, whichever val picks")
    assert by_sqrt.startswith("by sqrt ones an image of fox (12 in train) weighs 1.91, ")
    assert by_balanced.startswith("by balanced ones an image of fox (12 in train) weighs 3.33, ")


def test_classes_that_train_lacks_are_counted_and_no_rarest_class() -> None:
    told = words((90, 0, 30), sampling="balanced")
    assert "about 60 of each class" in told and "an image of fox (30 in train) 2 times" in told
    assert told.endswith("; 1 class(es) without an image in train count as before")


def test_what_the_search_varies_is_told_as_varied() -> None:
    space = {"class_weights": {"choices": ["none", "balanced"]}}
    told = words(space=space, head_class_weights=("none", "sqrt"))
    assert told == (
        "as the search draws it: --class-weights none or balanced; class weights in the loss of "
        "classifiers: none or sqrt"
    )
