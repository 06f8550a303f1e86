import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables.data.loader import TrainBatch
from trainables.errors import SweepError
from trainables.evaluation.inference import logits_of
from trainables.models import backbone, variants
from trainables.models.variants import Preprocessing
from trainables.training import validation
from trainables.training.distributed import WorkerGroup
from trainables.training.train_step import (
    MIN_MICRO_BATCH,
    TrainStep,
    halved,
    parts,
    rng_state,
    set_rng_state,
)
from trainables.training.validation import shared_logits

CPU = torch.device("cpu")
UNIT = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0)
SMOOTHING = 0.1


def draw(images, res=16, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return TrainBatch(
        rng.integers(0, 256, (images, res, res, 3), dtype=np.uint8),
        rng.integers(0, classes, images),
        rng.random(images) < 0.5,
    )


def plain_net():
    """Neither batch norm nor dropout: each image for itself."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 3))


def real_net(drop_rate=0.3):
    torch.manual_seed(0)
    return backbone.build(variants.get("lite0"), 3, drop_rate=drop_rate).train()


def stepper_of(model, micro_batch=None, lr=0.1):
    stepper = TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=lr),
        UNIT,
        label_smoothing=SMOOTHING,
        device=CPU,
        group=WorkerGroup(),
    )
    stepper.micro_batch = micro_batch
    return stepper


def take(stepper, batch):
    taken, _ = stepper.step(batch, len(batch.labels))
    return taken


@contextmanager
def room_for(model, images, *, backward=False):
    """Memory runs out at the end of a forward (or at the start of its backward) of more images."""

    def run_out(_module, inputs, *_):
        if len(inputs[0]) > images:
            raise torch.OutOfMemoryError("injected")

    last = list(model.children())[-1]
    if backward:
        hook = last.register_full_backward_hook(lambda _m, gi, go: run_out(_m, go))
    else:
        hook = last.register_forward_hook(run_out)
    try:
        yield
    finally:
        hook.remove()


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("most", [None, *range(2, 12)])
def test_parts_are_the_batch_in_order_and_nobody_is_alone(most):
    for images in range(1, 40):
        found = parts(images, most)
        assert np.concatenate([np.arange(images)[p] for p in found]).tolist() == [*range(images)]
        sizes = [p.stop - p.start for p in found]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(MIN_MICRO_BATCH, images)
        assert max(sizes) <= max(most or images, 3 if images % 2 else MIN_MICRO_BATCH)


@pytest.mark.parametrize("images", [2, 3, 8, 9, 32, 33, 100])
def test_halving_comes_down_to_the_least_and_ends_there(images):
    tried: list[int] = []
    while min([images, *tried]) > MIN_MICRO_BATCH:
        tried.append(halved(images, tried[-1] if tried else None))
    with pytest.raises(SweepError, match="micro-batches of 2 images"):
        halved(images, tried[-1] if tried else None)
    assert tried == sorted(set(tried), reverse=True)
    assert not tried or tried[-1] == MIN_MICRO_BATCH
    for larger, smaller in zip([images, *tried], tried, strict=False):
        assert smaller == max(MIN_MICRO_BATCH, (larger + 1) // 2)


@pytest.mark.parametrize(("images", "most"), [(8, 4), (8, 3), (9, 2), (7, 4), (13, 5)])
def test_micro_batches_have_the_gradients_of_the_whole_batch(images, most):
    batch, net = draw(images), plain_net()
    x = (torch.tensor(batch.pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    x[batch.flip] = x[batch.flip].flip(-1)
    logits = net(x)
    loss = F.cross_entropy(logits, torch.tensor(batch.labels), label_smoothing=SMOOTHING)
    loss.backward()
    wanted = gradients(net)
    stepper = stepper_of(net, most)
    taken = take(stepper, batch)
    for found, want in zip(gradients(net), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    assert taken.loss.item() == pytest.approx(images * loss.item(), rel=1e-5)
    assert taken.hits == (logits.argmax(1) == torch.tensor(batch.labels)).sum()


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_is_tried_again_in_halves_until_it_fits(backward):
    net, twin = plain_net(), plain_net()
    stepper = stepper_of(net)
    with room_for(net, 3, backward=backward):
        take(stepper, draw(9))
        assert stepper.micro_batch == 3
        take(stepper, draw(9, seed=1))
    assert stepper.micro_batch == 3
    other = stepper_of(twin, 3)
    take(other, draw(9))
    take(other, draw(9, seed=1))
    for found, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_failed_attempt_leaves_neither_statistics_nor_draws_behind():
    net = real_net()
    twin = copy.deepcopy(net)
    batch = draw(8, res=32)
    torch.manual_seed(5)
    with room_for(net, 4):
        take(stepper_of(net), batch)
    after = torch.rand(3)
    torch.manual_seed(5)
    take(stepper_of(twin, 4), batch)
    assert torch.equal(after, torch.rand(3))
    for (name, found), wanted in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(found, wanted), name
    assert net.bn1.num_batches_tracked == 2  # of the two micro-batches that came through
    for found, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_where_nothing_fits_it_says_so_and_no_step_is_taken():
    net = real_net()
    before = copy.deepcopy(net.state_dict())
    stepper = stepper_of(net)
    with room_for(net, 1), pytest.raises(SweepError, match="--train-res"):
        take(stepper, draw(8, res=32))
    parameters = dict(net.named_parameters())
    assert all(torch.equal(before[name], p) for name, p in parameters.items())


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    net = plain_net()
    stepper = stepper_of(net)
    monkeypatch.setattr(net, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(stepper, draw(8))
    assert stepper.micro_batch is None


def test_the_generator_goes_on_from_where_it_stood():
    state = rng_state(CPU)
    drawn = torch.rand(4)
    torch.manual_seed(1)
    set_rng_state(state, CPU)
    assert torch.equal(torch.rand(4), drawn)
    longer = torch.cat([state, torch.zeros(16, dtype=torch.uint8)])  # as of a GPU
    set_rng_state(torch.stack([torch.zeros_like(longer), longer])[1], CPU)
    assert torch.equal(torch.rand(4), drawn)


def scored_in(net, view, batch_size, should_stop=lambda: False):
    return shared_logits(
        net,
        view,
        UNIT,
        batch_size=batch_size,
        device=CPU,
        group=WorkerGroup(),
        should_stop=should_stop,
    )


@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_scoring_in_less_memory_gives_the_same_logits_in_order(room):
    net = plain_net().eval()
    view = draw(15).pixels
    wanted = logits_of(net, view, UNIT, batch_size=8, device=CPU)
    with room_for(net, room):
        found = scored_in(net, view, 8)
    torch.testing.assert_close(found, wanted)


def test_enough_memory_for_whole_batches_is_used(monkeypatch):
    sizes = []

    def spy(model, view, *rest, **named):
        sizes.append(len(view))
        return logits_of(model, view, *rest, **named)

    monkeypatch.setattr(validation, "logits_of", spy)
    scored_in(plain_net(), draw(15).pixels, 8)
    assert sizes == [8, 7]


def test_an_image_too_large_to_score_is_named():
    net = plain_net()
    with room_for(net, 0), pytest.raises(SweepError, match="image of 16 px"):
        scored_in(net, draw(5).pixels, 4)


@pytest.mark.parametrize("after", [0, 1])
def test_scoring_ends_before_the_batch_that_it_is_to_end_at(after):
    net, calls = plain_net(), []
    net.register_forward_pre_hook(lambda *_: calls.append(1))

    assert scored_in(net, draw(15).pixels, 8, lambda: len(calls) == after) is None
    assert len(calls) == after
