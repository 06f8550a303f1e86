"""Options of a trunk's training do what timm and PyTorch mean by them, and are off by default."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.data.mixup import mixup_target
from timm.layers import DropPath, freeze_batch_norm_2d
from timm.loss import SoftTargetCrossEntropy
from timm.optim.optim_factory import param_groups_layer_decay
from torch import nn

from tests.trainables.training.small_nets import CPU, UNIT, draw, plain_net
from trainables.data.loader import MixedIn
from trainables.models import backbone, variants
from trainables.training import train_step
from trainables.training.distributed import WorkerGroup
from trainables.training.moving_average import MovingAverage
from trainables.training.optim import make_optimizer
from trainables.training.recipe import Recipe
from trainables.training.train_step import TrainStep


def sgd_step(model, *, clip=0.0, lr=1.0, **more):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return TrainStep(
        model,
        optimizer,
        UNIT,
        label_smoothing=0.1,
        device=CPU,
        group=WorkerGroup(),
        clip_grad=clip,
        **more,
    )


def moved(clip, seed=0):
    """What a step of SGD with a learning rate of one moves the weights by, all in one."""
    net = plain_net()
    before = nn.utils.parameters_to_vector(net.parameters()).clone()
    batch = draw(8, seed=seed)
    sgd_step(net, clip=clip).step(batch, 8)
    return nn.utils.parameters_to_vector(net.parameters()) - before


@pytest.mark.parametrize("scaled", [False, True], ids=["float32", "scaled loss"])
@pytest.mark.parametrize("share", [0.25, 1.5])
def test_gradients_are_scaled_down_to_the_norm_and_never_up(monkeypatch, scaled, share):
    plain = moved(0.0)
    if scaled:
        monkeypatch.setattr(train_step, "precision_of", lambda _: "fp16")
    found = moved(share * plain.norm().item())
    torch.testing.assert_close(found, plain * min(1.0, share), rtol=1e-4, atol=1e-6)


def test_each_layer_has_its_share_of_the_learning_rate_as_timm_divides_them():
    net: Any = backbone.build(variants.get("lite0"), 3)
    optimizer = make_optimizer(net, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    wanted = param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in wanted for p in group["params"]}
    found = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    assert found == scales and len(set(scales.values())) > 5
    assert found[id(net.classifier.weight)] == 1.0 > found[id(net.conv_stem.weight)]
    plain = make_optimizer(net, "adamw", lr=0.1, weight_decay=0.05)
    assert all("lr_scale" not in group for group in plain.param_groups)


def test_blocks_are_skipped_at_rates_that_rise_to_the_last_ones_and_only_in_training():
    net = backbone.build(variants.get("lite0"), 3, drop_path=0.3)
    rates = [module.drop_prob for module in net.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates) and 0 < rates[0] < rates[-1] <= 0.3
    twin = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    twin.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), twin.eval()(x))
    assert not any(
        isinstance(m, DropPath) for m in backbone.build(variants.get("lite0"), 3).modules()
    )


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_an_average_that_begins_short_forgets_the_start(steps):
    """Of a model that stands still from its first step on, the start's share falls as steps**-2/3
    multiplied up; without the warm-up it is the decay's power."""
    shares = {}
    for warmup in (False, True):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        average = MovingAverage(model, 0.9999, warmup=warmup)
        nn.init.ones_(model.weight)
        for step in range(2, 2 + steps):  # timm takes over the weights in its first step
            average.update(model, step=step)
        shares[warmup] = 1 - average.module.weight.item()
    assert shares[False] == pytest.approx(0.9999**steps, rel=1e-5)
    wanted = math.prod(min(0.9999, 1 - (1 + t) ** (-2 / 3)) for t in range(1, 1 + steps))
    assert shares[True] == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_frozen_norms_train_as_timms_do():
    """A twin whose norms timm has replaced takes the same steps; what it has no names for stays."""
    net = backbone.build(variants.get("lite0"), 3)
    rng = torch.Generator().manual_seed(0)
    for name, statistics in net.named_buffers():  # else the norms are the identity
        if name.endswith("running_mean"):
            statistics.uniform_(-0.1, 0.1, generator=rng)
        elif name.endswith("running_var"):
            statistics.uniform_(0.9, 1.1, generator=rng)
    before = copy.deepcopy(net.state_dict())
    twin = freeze_batch_norm_2d(copy.deepcopy(net))
    backbone.into_training(net, frozen_norms=True)
    twin.train()
    for seed in range(2):
        batch = draw(4, res=32, seed=seed)
        for model in (net, twin):
            sgd_step(model, lr=0.01).step(batch, 4)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)
    norms = {name for name in before if ".bn" in name or name.startswith("bn")}
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in norms)
    stem = "conv_stem.weight"
    assert not torch.equal(net.get_parameter(stem), before[stem])
    backbone.into_training(net)
    assert net.get_submodule("bn1").training and all(p.requires_grad for p in net.parameters())


def mixed(images, share, seed=0):
    """A batch whose labels are mixed with those from the last to the first."""
    batch = draw(images, seed=seed)
    return replace(batch, mixed_in=MixedIn(batch.labels.flip(0), 1 - share))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_loss_of_mixed_images_is_that_of_timms_soft_targets(share):
    net, batch = plain_net(), mixed(8, share)
    x = (batch.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    logits = net(x)
    target = mixup_target(batch.labels, 3, lam=share, smoothing=0.1)
    loss = SoftTargetCrossEntropy()(logits, target)
    loss.backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    step = sgd_step(net)
    result, _ = step.step(batch, 8)
    assert result.loss.item() == pytest.approx(8 * loss.item(), rel=1e-5)
    for p, gradient in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    own, partners = (logits.argmax(1) == y for y in (batch.labels, batch.labels.flip(0)))
    assert result.hits == (own if share > 0.5 else partners).sum()


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_mixed_image_weighs_as_shares_of_images_of_both_labels(micro_batch):
    """Each image twice, unmixed, once of each label, with the shares as its weights."""
    net, weights, share = plain_net(), torch.tensor([0.3, 4.0, 1.5]), 0.7
    batch = mixed(8, share)
    logits = net((batch.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    total = weighed = torch.zeros(())
    for labels, part in batch.targets:
        loss = nn.CrossEntropyLoss(weights, label_smoothing=0.1, reduction="sum")(logits, labels)
        total = total + part * loss
        weighed = weighed + part * weights[labels].sum()
    (total / weighed).backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    step = sgd_step(net, class_weights=weights.numpy(), micro_batch=micro_batch)
    result, _ = step.step(batch, 8)
    assert result.loss.item() == pytest.approx(8 * (total / weighed).item(), rel=1e-5)
    for p, gradient in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


def test_options_that_are_off_leave_keys_as_they_were():
    from trainables.storage.hashing import content_hash

    plain = Recipe(epochs=3, batch_size=8)
    on: dict[str, Any] = {
        "ema_warmup": True,
        "drop_path": 0.1,
        "layer_decay": 0.8,
        "clip_grad": 1.0,
        "auto_augment": "rand",
        "freeze_batch_norm": True,
        "start": "probe",
        "head_only_epochs": 1,
        "mixup": 0.2,
        "cutmix": 1.0,
        "random_erasing": 0.25,
    }
    hashes = {content_hash(replace(plain, **{name: value})) for name, value in on.items()}
    assert len(hashes) == len(on) and content_hash(plain) not in hashes
    older = {name: value for name, value in vars(plain).items() if name not in on}
    assert content_hash(Recipe(**older)) == content_hash(plain)
