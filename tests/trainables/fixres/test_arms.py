"""The arms, each against the whole net run plainly, and the table of them."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from timm.layers import TestTimePoolHead as TimmPoolHead

from tests.trainables.adapted import (
    HEADS,
    TRAIN_RES,
    WHOLE,
    net_with,
    pixels_of,
    watched,
)
from tests.trainables.fixres.plain_arms import plain
from trainables.evaluation.metrics import score
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS, UNTUNED, rank
from trainables.models.parts.tensor_names import AFFINE, CLASSIFIER, EFFICIENTNET, STATISTICS


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_what_the_whole_net_does_plainly(made, arm):
    wanted = plain(made, arm)
    if arm == "pool":
        x, _ = pixels_of(made.views.images, "val")
        with torch.no_grad():
            timms = TimmPoolHead(net_with(made.trunk), original_pool=TRAIN_RES // 32)(x)
        torch.testing.assert_close(wanted, timms)
    torch.testing.assert_close(made.logits[arm], wanted, rtol=2e-4, atol=2e-4)
    assert made.results[arm].score == score(
        wanted, torch.tensor(made.views.images.split("val").labels), "val"
    )


def test_no_two_arms_are_the_same(made):
    arms = list(ARMS)
    for i, one in enumerate(arms):
        for other in arms[:i]:
            assert (made.logits[one] - made.logits[other]).abs().max() > 1e-3, (one, other)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_changes_what_it_says_and_not_a_bit_else(made, arm):
    state = adapted_state(made.store, made.cell.trunk, made.cell.key, arm)
    assert state.keys() == made.trunk.keys()
    changed = {name for name in state if not torch.equal(state[name], made.trunk[name])}
    assert changed == set(EFFICIENTNET.of(*ARMS[arm].changes))
    assert all(state[name].dtype == made.trunk[name].dtype for name in state)


def test_what_each_arm_may_change():
    """FixRes touches the classifier and the last batch norm, and nothing else ever."""
    assert {a for a in ARMS if not ARMS[a].changes} == {"none", "pool", "none_flip"}
    assert ARMS["bn"].changes == (STATISTICS,)
    for arm in ("fix", "fix_aug", "fix_flip"):
        assert ARMS[arm].changes == (CLASSIFIER, STATISTICS)
    assert set(ARMS["fix_affine"].changes) - set(ARMS["fix"].changes) == {AFFINE}
    parts = {part for arm in ARMS.values() for part in arm.changes}
    assert parts == {STATISTICS, AFFINE, CLASSIFIER}
    every = EFFICIENTNET.of(STATISTICS, AFFINE, CLASSIFIER)
    assert {name.partition(".")[0] for name in every} == {"classifier", "bn2"}


def test_at_the_train_resolution_the_map_of_activations_is_the_identity(made):
    at_home = replace(WHOLE, test_res=TRAIN_RES)
    cell = replace(made.cell, arms=("none", "pool", "frechet"), transform=at_home)
    _, logits, _ = watched(cell, made.store, made.views)
    torch.testing.assert_close(logits["frechet"], logits["none"])
    torch.testing.assert_close(logits["pool"], logits["none"])


def test_the_classifier_is_picked_among_all_settings_and_epochs(made):
    fixed = made.results["fix"]
    assert fixed.head_tried == made.results["fix_flip"].head_tried == 4 * HEADS.epochs
    assert made.results["fix_aug"].head_tried == 2 * HEADS.epochs
    assert made.results["fix_aug"].head.label_smoothing > 0
    affine = made.results["fix_affine"]
    assert affine.head == replace(fixed.head, epochs=affine.head.epochs)
    assert fixed.head_tried < affine.head_tried <= fixed.head_tried + HEADS.epochs
    assert all(made.results[arm].head is None for arm in ("none", "none_flip", "pool", "bn"))


def test_an_arm_is_entered_under_its_name_with_the_function_of_that_name():
    assert all(name == arm.name for name, arm in ARMS.items())
    assert [arm.adapt.__name__ for arm in ARMS.values()] == [f"adapt_{name}" for name in ARMS]
    assert all(arm.adapt.__module__ == "trainables.fixres.arms" for arm in ARMS.values())


def test_arms_rank_in_the_order_of_the_table():
    assert [rank(name) for name in ARMS] == list(range(len(ARMS)))
    with pytest.raises(ValueError, match="unheard"):
        rank("unheard")


def test_a_tuned_arm_is_compared_with_one_that_changes_nothing_on_the_same_pixels():
    assert not ARMS[UNTUNED].changes and ARMS[UNTUNED].plain


def test_the_table_is_imported_without_torch():
    script = "import sys, trainables.fixres.arms; print({'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
