"""Held-out sets are scored once, among their own classes."""

from dataclasses import replace

import pytest
import torch

from tests.trainables.adapted import count_images, net_with, pixels_of
from trainables.evaluation.metrics import score
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.held_out_score import (
    HeldOutSet,
    cells_tested_on,
    held_out_predictions,
    score_held_out,
)


def held_out_set(made, split="test", name="test", present=(0, 1, 2)):
    images = made.views.images
    return HeldOutSet(
        name=name, images=images.split(split), digest=f"{images.digest} {split}", present=present
    )


@pytest.mark.parametrize("arm", ARMS)
def test_a_set_is_scored_once_for_each_arm(made, arm, monkeypatch):
    seen = count_images(monkeypatch)
    first = score_held_out(held_out_set(made), made.store, made.cell, arm, made.views)
    assert sum(seen) == 9
    again = score_held_out(held_out_set(made), made.store, made.cell, arm, made.views)
    assert again == first
    assert sum(seen) == 9
    assert (first.arm, first.score.split, first.score.n) == (arm, "test", 9)
    if not ARMS[arm].plain:
        return
    x, y = pixels_of(made.views.images, "test")
    with torch.no_grad():
        logits = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, arm))(x)
    assert first.score == score(logits, y, "test")
    kept = held_out_predictions(held_out_set(made), made.store, made.cell, arm)
    assert (kept.split, kept.labels.tolist()) == ("test", y.tolist())
    torch.testing.assert_close(torch.tensor(kept.logits), logits, rtol=1e-4, atol=1e-4)
    assert int((kept.predicted == kept.labels).sum()) == first.score.hits1


def test_the_pool_arm_is_scored_as_the_cell_scored_val(made):
    result = score_held_out(
        held_out_set(made, "val", "again"), made.store, made.cell, "pool", made.views
    )
    assert result.score == replace(made.results["pool"].score, split="again")


def test_a_set_of_fewer_classes_is_scored_among_its_own(made):
    """Restricting the classes can only help, and is the argmax over those that are there."""
    x, y = pixels_of(made.views.images, "val")
    with torch.no_grad():
        logits = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, "fix"))(x)
    hits = int((logits[:, [0, 2]].argmax(1) == y // 2)[y != 1].sum())
    result = score_held_out(
        held_out_set(made, "val", "two", (0, 2)), made.store, made.cell, "fix", made.views
    )
    # Images of the absent class are never hit: such a set would not hold any.
    assert result.score.hits1 == hits


def test_every_look_is_recorded_in_order(made):
    assert cells_tested_on(made.store, "looked") == []
    for arm in ("fix", "none", "fix"):
        score_held_out(held_out_set(made, name="looked"), made.store, made.cell, arm, made.views)
    other = replace(made.cell, arms=("none",))
    score_held_out(held_out_set(made, name="looked"), made.store, other, "none", made.views)
    assert cells_tested_on(made.store, "looked") == [made.cell.key, other.key]
