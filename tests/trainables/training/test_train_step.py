import copy

import numpy as np
import pytest
import torch

from tests.trainables.training.small_nets import CPU, UNIT, draw, plain_net, room_for
from trainables.errors import SweepError
from trainables.models import backbone, variants
from trainables.training.distributed import WorkerGroup
from trainables.training.train_step import (
    MIN_MICRO_BATCH,
    TrainStep,
    micro_batches,
    rng_state,
    set_rng_state,
)

SMOOTHING = 0.1


def real_net(drop_rate=0.3):
    torch.manual_seed(0)
    return backbone.build(variants.get("lite0"), 3, drop_rate=drop_rate).train()


def train_step_of(model, micro_batch=None, lr=0.1, class_weights=None):
    return TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=lr),
        UNIT,
        label_smoothing=SMOOTHING,
        device=CPU,
        group=WorkerGroup(),
        class_weights=class_weights,
        micro_batch=micro_batch,
    )


def take(train_step, batch):
    result, _ = train_step.step(batch, len(batch.labels))
    return result


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("most", [None, *range(2, 12)])
def test_micro_batches_are_the_batch_in_order_and_none_is_a_single_image(most):
    for images in range(1, 40):
        found = micro_batches(images, most)
        assert np.concatenate([np.arange(images)[p] for p in found]).tolist() == [*range(images)]
        sizes = [p.stop - p.start for p in found]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(MIN_MICRO_BATCH, images)
        assert max(sizes) <= max(most or images, 3 if images % 2 else MIN_MICRO_BATCH)


@pytest.mark.parametrize("most", [None, 2, 3, 5])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_workers_have_as_many_micro_batches_of_images_dealt_out_in_turn(most, world):
    for images in range(2 * world, 40):
        shares = [micro_batches(images, most, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        for parts in zip(*shares, strict=True):
            sizes = [part.stop - part.start for part in parts]
            assert sizes == [len(range(rank, sum(sizes), world)) for rank in range(world)]
            assert min(sizes) >= MIN_MICRO_BATCH
        assert [s[-1].stop for s in shares] == [len(range(r, images, world)) for r in range(world)]


@pytest.mark.parametrize("weights", [None, [0.3, 4.0, 1.5]], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("images", "most"), [(8, None), (8, 4), (8, 3), (9, 2), (7, 4), (13, 5)])
def test_micro_batches_have_the_gradients_of_the_whole_batch(images, most, weights):
    batch, net = draw(images), plain_net()
    x = (batch.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    logits = net(x)
    torch_weights = None if weights is None else torch.tensor(weights)
    loss = torch.nn.CrossEntropyLoss(torch_weights, label_smoothing=SMOOTHING)(logits, batch.labels)
    loss.backward()
    wanted = gradients(net)
    train_step = train_step_of(net, most, class_weights=weights and np.array(weights))
    result = take(train_step, batch)
    for found, want in zip(gradients(net), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    assert result.loss.item() == pytest.approx(images * loss.item(), rel=1e-5)
    assert result.hits == (logits.argmax(1) == batch.labels).sum()


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_is_tried_again_in_halves_until_it_fits(backward):
    net, twin = plain_net(), plain_net()
    train_step = train_step_of(net)
    with room_for(net, 3, backward=backward):
        take(train_step, draw(9))
        assert train_step.micro_batch == 3
        take(train_step, draw(9, seed=1))
    assert train_step.micro_batch == 3
    other = train_step_of(twin, 3)
    take(other, draw(9))
    take(other, draw(9, seed=1))
    for found, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_failed_attempt_leaves_neither_statistics_nor_draws_behind():
    net = real_net()
    twin = copy.deepcopy(net)
    batch = draw(16, res=32)
    torch.manual_seed(5)
    with room_for(net, 8):
        take(train_step_of(net), batch)
    after = torch.rand(3)
    torch.manual_seed(5)
    take(train_step_of(twin, 8), batch)
    assert torch.equal(after, torch.rand(3))
    for (name, found), wanted in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(found, wanted), name
    assert net.bn1.num_batches_tracked == 2  # of the two micro-batches that came through
    for found, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("images", "most"), [(8, 4), (15, 8), (9, 2)])
def test_norms_stand_still_where_too_few_images_are_at_once(images, most):
    net, batch = real_net(drop_rate=0.0), draw(images, res=32)
    plain, before = copy.deepcopy(net).eval(), copy.deepcopy(dict(net.named_buffers()))
    x = (batch.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)(plain(x), batch.labels).backward()
    take(train_step_of(net, most), batch)
    for found, wanted in zip(gradients(net), gradients(plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(before[name], found) for name, found in net.named_buffers())
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(("images", "most"), [(8, None), (4, None), (16, 8), (17, 9)])
def test_norms_follow_batches_that_are_large_enough_or_asked_for(images, most):
    net = real_net()
    take(train_step_of(net, most), draw(images, res=32))
    assert net.bn1.num_batches_tracked == len(micro_batches(images, most))


def test_where_nothing_fits_it_says_so_and_no_step_is_taken():
    net = real_net()
    before = copy.deepcopy(net.state_dict())
    train_step = train_step_of(net)
    with room_for(net, 1), pytest.raises(SweepError, match="`train_res`"):
        take(train_step, draw(8, res=32))
    parameters = dict(net.named_parameters())
    assert all(torch.equal(before[name], p) for name, p in parameters.items())


def test_an_optimiser_that_finds_no_memory_says_so(monkeypatch):
    train_step = train_step_of(plain_net())

    def run_out():
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(train_step._optimizer, "step", run_out)
    with pytest.raises(SweepError, match=r"`optimizer` sgd"):
        take(train_step, draw(8))


def test_other_errors_are_not_result_for_a_lack_of_memory(monkeypatch):
    net = plain_net()
    train_step = train_step_of(net)
    monkeypatch.setattr(net, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(train_step, draw(8))
    assert train_step.micro_batch is None


def test_the_generator_goes_on_from_where_it_stood():
    state = rng_state(CPU)
    drawn = torch.rand(4)
    torch.manual_seed(1)
    set_rng_state(state, CPU)
    assert torch.equal(torch.rand(4), drawn)
    longer = torch.cat([state, torch.zeros(16, dtype=torch.uint8)])  # as of a GPU
    set_rng_state(torch.stack([torch.zeros_like(longer), longer])[1], CPU)
    assert torch.equal(torch.rand(4), drawn)
