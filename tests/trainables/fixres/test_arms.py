"""The arms, each against the whole net run plainly, and the table of them."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import TestTimePoolHead as TimmPoolHead

from tests.trainables.adapted import (
    HEADS,
    SEED,
    TEST_RES,
    TRAIN_RES,
    VIEWS,
    WHOLE,
    net_with,
    normalised,
    pixels_of,
    served,
    watched,
)
from trainables.evaluation.metrics import score
from trainables.fixres import frechet
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS, UNTUNED, rank
from trainables.fixres.heads import epoch_order
from trainables.models.tensor_names import AFFINE, CLASSIFIER, STATISTICS


def re_estimated(made):
    """The trunk with its last batch norm's statistics as torch takes them from one large batch."""
    net = net_with(made.trunk)
    x, _ = pixels_of(made.views.images, "train")
    net.bn2.train()
    net.bn2.momentum = 1.0
    with torch.no_grad():
        net(x)
    return net.eval()


@torch.enable_grad()
def trained(made, net, setting, views, tuned):
    """The net with the named tensors trained: no kept features, all of it runs in every step."""
    y = torch.tensor(made.views.images.split("train").labels)
    net.requires_grad_(False)
    groups = []
    for name in tuned:
        parameter = net.get_parameter(name).requires_grad_(True)
        decay = setting.weight_decay if name in CLASSIFIER else 0.0
        groups.append({"params": [parameter], "weight_decay": decay})
    optimizer = torch.optim.SGD(groups, setting.lr, momentum=HEADS.momentum)
    for epoch in range(1, setting.epochs + 1):
        x = views[(epoch - 1) % len(views)]
        for chosen in epoch_order(len(x), SEED, epoch).split(HEADS.batch_size):
            loss = F.cross_entropy(
                net(x[chosen]), y[chosen], label_smoothing=setting.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def plain(made, arm):
    """Val's logits by the arm, the plain way."""
    images, head = made.views.images, made.results[arm].head
    x, _ = pixels_of(images, "val")
    train, _ = pixels_of(images, "train")
    if arm in ("none", "none_flip"):
        net = net_with(made.trunk)
    elif arm == "pool":
        net = TimmPoolHead(net_with(made.trunk), original_pool=TRAIN_RES // 32)
    elif arm == "bn":
        net = re_estimated(made)
    elif arm == "frechet":
        net = mapped(made)
    elif arm in ("fix", "fix_flip"):
        net = trained(made, re_estimated(made), head, [train], CLASSIFIER)
    elif arm == "fix_aug":
        part = images.split("train")
        views = []
        for number in range(VIEWS):
            view = made.views.mild_view("train", WHOLE, number=number, hflip=0.5, seed=SEED)
            assert len(view) == len(part)
            views.append(normalised(np.concatenate(list(view.batches(5)))))
        net = trained(made, re_estimated(made), head, views, CLASSIFIER)
    elif arm == "fix_affine":
        net = trained(made, re_estimated(made), head, [train], (*AFFINE, *CLASSIFIER))
    else:
        pytest.fail(f"compute the arm {arm} the plain way here")
    with torch.no_grad():
        return served(net, arm)(x)


def mapped(made):
    """The trunk with its pooled features mapped before the classifier."""
    net = net_with(made.trunk)
    pooled = []
    for res in (TRAIN_RES, TEST_RES):
        x, _ = pixels_of(made.views.images, "train", replace(WHOLE, test_res=res))
        with torch.no_grad():
            pooled.append(net.forward_head(net.forward_features(x), pre_logits=True).numpy())
    old, new = frechet.fit_laws(*(frechet.quantiles(features) for features in pooled))

    def forward(x):
        features = net.forward_head(net.forward_features(x), pre_logits=True).double().numpy()
        back = old.quantile(new.cdf(features).clip(1e-12, 1 - 1e-12))
        inside = (new.cdf(features) > 1e-9) & (new.cdf(features) < 1 - 1e-9)
        line = np.polyfit(features[inside], back[inside], 1)  # it is one: the tails go along it
        return net.classifier(torch.tensor(np.polyval(line, features)).float())

    return forward


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_what_the_whole_net_does_plainly(made, arm):
    wanted = plain(made, arm)
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
    assert changed == set(ARMS[arm].changes)
    assert all(state[name].dtype == made.trunk[name].dtype for name in state)


def test_what_each_arm_may_change():
    """FixRes touches the classifier and the last batch norm, and nothing else ever."""
    assert {a for a in ARMS if not ARMS[a].changes} == {"none", "pool", "none_flip"}
    assert ARMS["bn"].changes == STATISTICS
    for arm in ("fix", "fix_aug", "fix_flip"):
        assert ARMS[arm].changes == (*CLASSIFIER, *STATISTICS)
    assert set(ARMS["fix_affine"].changes) - set(ARMS["fix"].changes) == set(AFFINE)
    every = {name for arm in ARMS.values() for name in arm.changes}
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
