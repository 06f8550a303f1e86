import pytest
import torch

from tests.trainables.training.small_nets import CPU, UNIT, draw, plain_net, room_for
from trainables.errors import SweepError
from trainables.evaluation.inference import logits_of, logits_of_batch
from trainables.training import validation
from trainables.training.distributed import WorkerGroup
from trainables.training.validation import shared_logits

ALONE = WorkerGroup()


def logits_in(net, view, batch_size, should_stop=lambda: False, group=ALONE):
    return shared_logits(
        net,
        view,
        UNIT,
        batch_size=batch_size,
        device=CPU,
        group=group,
        should_stop=should_stop,
    )


@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_scoring_in_less_memory_gives_the_same_logits_in_order(room):
    net = plain_net().eval()
    view = draw(15).pixels.numpy()
    wanted = logits_of(net, view, UNIT, batch_size=8, device=CPU)
    with room_for(net, room):
        found = logits_in(net, view, 8)
    torch.testing.assert_close(found, wanted)


@pytest.fixture
def batches(monkeypatch):
    """The images of each batch that is tried."""
    tried = []

    def spy(model, x):
        tried.append(len(x))
        return logits_of_batch(model, x)

    monkeypatch.setattr(validation, "logits_of_batch", spy)
    return tried


def test_enough_memory_for_whole_batches_is_used(batches):
    logits_in(plain_net(), draw(15).pixels.numpy(), 8)
    assert batches == [8, 7]


def test_a_batch_that_does_not_fit_is_tried_in_halves_and_so_are_all_after_it(batches):
    net = plain_net()
    with room_for(net, 3):
        logits_in(net, draw(15).pixels.numpy(), 9)
    assert batches == [9, 5, 3, 3, 3, 3, 3]


def test_an_image_too_large_to_score_is_named():
    net = plain_net()
    with room_for(net, 0), pytest.raises(SweepError, match="image of 16 px"):
        logits_in(net, draw(5).pixels.numpy(), 4)


@pytest.mark.parametrize("after", [0, 1])
def test_scoring_ends_before_the_batch_that_it_is_to_end_at(after):
    net, calls = plain_net(), []
    net.conv_stem.register_forward_pre_hook(lambda *_: calls.append(1))

    assert logits_in(net, draw(15).pixels.numpy(), 8, lambda: len(calls) == after) is None
    assert len(calls) == after


def test_a_worker_scores_its_share_and_another_that_stops_stops_it():
    class Second(WorkerGroup):
        def any_true(self, *flags):
            assert flags == (False,)
            return (True,)

    net, images = plain_net(), []
    net.conv_stem.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    assert logits_in(net, draw(15).pixels.numpy(), 4, group=Second(rank=1, world_size=2)) is None
    assert images == [4, 3]
