import math

import pytest
import timm
import torch

from trainables.training.optim import lr_factor, make_optimizer

STEPS = 40


def course(warmup, schedule):
    return [lr_factor(s, steps=STEPS, warmup=warmup, schedule=schedule) for s in range(STEPS)]


def test_cosine_is_the_closed_form_and_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    factors = course(0, "cosine")
    for factor in factors:
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()
    assert factors[0] == 1
    assert factors[STEPS // 2] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.005


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_warm_up_rises_in_even_steps_to_the_peak(schedule):
    factors = course(4, schedule)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(factors) == 1


def test_cosine_after_a_warm_up_falls_over_the_steps_that_are_left():
    factors = course(10, "cosine")[10:]
    assert factors == pytest.approx([(1 + math.cos(math.pi * k / 30)) / 2 for k in range(30)])


def test_constant_stays():
    assert course(0, "constant") == [1.0] * STEPS
    assert course(3, "constant")[3:] == [1.0] * (STEPS - 3)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_warm_up_as_long_as_the_training_is_no_division_by_zero(schedule):
    factors = course(STEPS, schedule)
    assert factors == sorted(factors)
    assert lr_factor(STEPS, steps=STEPS, warmup=STEPS, schedule=schedule) == 1


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="step"):
        lr_factor(0, steps=1, warmup=0, schedule="step")
    with pytest.raises(ValueError, match="lion"):
        make_optimizer(torch.nn.Linear(1, 1), "lion", lr=1.0, weight_decay=0.0)


@pytest.fixture(scope="module")
def model():
    return timm.create_model("tf_efficientnet_lite0", num_classes=3)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_only_weights_of_convolutions_and_of_the_classifier_are_decayed(model, kind):
    optimizer = make_optimizer(model, kind, lr=0.3, weight_decay=0.05)
    decay_of = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    wanted = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_map = isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and name == "weight"
            wanted[id(parameter)] = 0.05 if is_map else 0.0
    assert decay_of == wanted
    assert set(wanted.values()) == {0.0, 0.05}
    assert all(group["lr"] == 0.3 for group in optimizer.param_groups)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_steps_are_torchs_own(kind, weight_decay):
    """AdamW with its default betas; SGD with Nesterov momentum 0.9."""
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    groups = [
        {"params": [theirs.weight], "weight_decay": weight_decay},
        {"params": [theirs.bias], "weight_decay": 0.0},
    ]
    plain: torch.optim.Optimizer
    if kind == "adamw":
        plain = torch.optim.AdamW(groups, lr=0.1)
    else:
        plain = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    made = make_optimizer(ours, kind, lr=0.1, weight_decay=weight_decay)
    for _ in range(4):
        x = torch.randn(5, 4)
        for net, optimizer in ((ours, made), (theirs, plain)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
