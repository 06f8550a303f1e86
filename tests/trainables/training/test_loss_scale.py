"""In fp16 the loss is scaled: that changes no step, and one that overflows is left out."""

import copy

import pytest
import torch

from tests.trainables.training.small_nets import CPU, UNIT, draw, plain_net
from tests.trainables.training.test_train_step import real_net
from trainables.training import train_step
from trainables.training.distributed import WorkerGroup
from trainables.training.optim import make_optimizer
from trainables.training.train_step import TrainStep

KINDS = ["adamw", "sgd"]


def step_of(model, kind, micro_batch=None, **scale):
    return TrainStep(
        model,
        make_optimizer(model, kind, lr=1e-4, weight_decay=0.05),
        UNIT,
        label_smoothing=0.1,
        device=CPU,
        group=WorkerGroup(),
        micro_batch=micro_batch,
        **scale,
    )


def take(step, seed, images=8):
    torch.manual_seed(seed)
    batch = draw(images, res=16, seed=seed)
    result, _ = step.step(batch, images)
    return result.loss.item()


@pytest.fixture
def in_fp16(monkeypatch):
    """What a GPU without bf16 does, but for its arithmetic: a CPU computes in float32."""

    def begin():
        monkeypatch.setattr(train_step, "precision_of", lambda _: "fp16")

    return begin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_scale_of_a_power_of_two_changes_no_bit(in_fp16, kind, micro_batch):
    plain, scaled = plain_net(), plain_net()
    wanted = step_of(plain, kind, micro_batch)
    losses = [take(wanted, seed) for seed in range(3)]
    assert wanted.loss_scale == {}
    in_fp16()
    found = step_of(scaled, kind, micro_batch)
    assert found.loss_scale["scale"] == 2**16
    assert [take(found, seed) for seed in range(3)] == losses
    for name, tensor in scaled.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_overflows_is_left_out_and_the_scale_is_halved(in_fp16, kind):
    net = real_net()
    in_fp16()
    step = step_of(net, kind, loss_scale={**step_of(net, kind).loss_scale, "scale": 2.0**127})
    before = copy.deepcopy(dict(net.named_parameters()))
    take(step, 0)
    assert step.loss_scale["scale"] == 2.0**126
    for name, tensor in net.named_parameters():
        assert torch.equal(tensor, before[name]), name
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())


def test_a_training_that_is_resumed_goes_on_with_its_scale(in_fp16):
    in_fp16()
    step = step_of(real_net(), "adamw")
    for seed in range(2):
        take(step, seed)
    state = step.loss_scale
    assert state["_growth_tracker"] == 2
    assert step_of(real_net(), "adamw", loss_scale=state).loss_scale == state


def test_a_scale_of_another_device_is_not_used_where_there_is_none():
    step = step_of(real_net(), "sgd", loss_scale={"scale": 7.0})
    assert step.loss_scale == {}
