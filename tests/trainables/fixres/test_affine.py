"""Scale and shift trained on kept maps; the whole net does the same in test_fix."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import CrossEntropyLoss

from tests.trainables.adapted import HEADS, net_with
from trainables.fixres.affine import fit_affine, fit_affine_setting
from trainables.fixres.head_settings import HeadSetting
from trainables.models.parts.tensor_names import AFFINE, CLASSIFIER, EFFICIENTNET

CPU = torch.device("cpu")
SETTING = HeadSetting(optimizer="adamw", lr=0.003, label_smoothing=0.1, weight_decay=0.05, epochs=0)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    y = torch.arange(24) % 3
    maps = torch.randn(24, 320, 2, 2)
    maps[:, :3, 0, 0] += 4 * torch.eye(3)[y]  # something to learn
    return SimpleNamespace(tensor=maps), y


def fitted(made, data, grid=HEADS, setting=SETTING, val=None):
    net = net_with(made.trunk)
    found = fit_affine(net, data, val or data, setting, grid, seed=1, batch_size=7, device=CPU)
    return net, found.setting, found.tried


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_scale_shift_and_classifier_move(made, data, optimizer):
    net, setting, tried = fitted(made, data, setting=replace(SETTING, optimizer=optimizer))
    state = net.state_dict()
    changed = {name for name in state if not torch.equal(state[name], made.trunk[name])}
    assert changed == set(EFFICIENTNET.of(AFFINE, CLASSIFIER))
    assert 1 <= setting.epochs <= tried <= HEADS.epochs
    assert not any(p.requires_grad for p in net.parameters())


def test_it_learns_more_with_more_epochs(made, data):
    def loss(net):
        with torch.no_grad():
            z = net.conv_head(data[0].tensor)
            logits = net.classifier(net.global_pool(net.bn2(z)))
        return torch.nn.functional.cross_entropy(logits, data[1]).item()

    start, short, long = (
        loss(net_with(made.trunk)),
        loss(fitted(made, data, replace(HEADS, epochs=1))[0]),
        loss(fitted(made, data, replace(HEADS, epochs=8, patience=8))[0]),
    )
    assert long < short < start


def test_it_ends_where_val_liked_it_best_and_gives_up_in_time(made, data):
    """Val's labels are another class each: what is learnt only hurts there."""
    wrong = data[0], (data[1] + 1) % 3
    grid = replace(HEADS, epochs=40, patience=3)
    net, setting, tried = fitted(made, data, grid, replace(SETTING, lr=0.05), wrong)
    assert tried < 40 and tried == setting.epochs + 3
    again, *_ = fitted(
        made, data, replace(grid, epochs=setting.epochs), replace(SETTING, lr=0.05), wrong
    )
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_of_weighted_classes_is_down_torchs_weighted_loss(made, data, smoothing):
    """One step of SGD on all images: what moved, over the rate, is the gradient."""
    maps, y = data[0], torch.tensor([0] * 16 + [1] * 6 + [2] * 2)
    weights = torch.tensor(
        compute_class_weight("balanced", classes=np.arange(3), y=y.numpy()), dtype=torch.float32
    )
    torchs, plain = CrossEntropyLoss(weights, label_smoothing=smoothing), net_with(made.trunk)
    with torch.no_grad():
        z = plain.conv_head(maps.tensor)
    torchs(plain.classifier(plain.global_pool(plain.bn2(z))), y).backward()
    setting = replace(
        SETTING, optimizer="sgd", lr=1.0, label_smoothing=smoothing, weight_decay=0.0,
        epochs=1, class_weights="balanced",
    )  # fmt: skip
    net = net_with(made.trunk)
    fit_affine_setting(net, (maps, y), setting, replace(HEADS, batch_size=24), seed=1, device=CPU)
    for name in EFFICIENTNET.of(AFFINE, CLASSIFIER):
        moved = made.trunk[name] - net.state_dict()[name]
        wanted = plain.get_parameter(name).grad
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_setting_without_val_ends_where_val_picked_it(made, data, optimizer):
    """Val's labels are other ones, so that it picks an epoch before the last."""
    wrong, grid = (data[0], (data[1] + 1) % 3), replace(HEADS, epochs=9, patience=9)
    net, setting, _ = fitted(made, data, grid, replace(SETTING, optimizer=optimizer), wrong)
    assert setting.epochs < 9
    alone = net_with(made.trunk)
    fit_affine_setting(alone, data, setting, grid, seed=1, device=CPU)
    assert not any(p.requires_grad for p in alone.parameters())
    after = alone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in net.state_dict().items())


def test_a_step_too_far_leaves_the_start(made, data):
    net, setting, _ = fitted(made, data, setting=replace(SETTING, optimizer="sgd", lr=1e30))
    assert setting.epochs == 0
    assert all(torch.equal(t, made.trunk[name]) for name, t in net.state_dict().items())
