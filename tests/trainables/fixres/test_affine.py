"""Scale and shift trained on kept maps; the whole net does the same in test_fix."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.trainables.adapted import HEADS, net_with
from trainables.fixres.affine import fit_affine, fit_affine_setting
from trainables.fixres.head_settings import HeadSetting
from trainables.models.tensor_names import AFFINE, CLASSIFIER

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
    assert changed == {*AFFINE, *CLASSIFIER}
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
