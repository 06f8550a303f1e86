"""Steps of a compiled net, and of one that is replayed, are those of the net as it is."""

import copy
import logging
import weakref
from types import SimpleNamespace

import pytest
import torch
from timm.layers import BatchNormAct2d, DropPath, SelectAdaptivePool2d
from torch import nn

from tests.trainables.training.small_nets import CPU, UNIT, draw, net_of, room_for
from trainables.models import backbone, variants
from trainables.models.training_forward import TrainingForward
from trainables.training.distributed import WorkerGroup
from trainables.training.train_step import TrainStep

BATCHES = [draw(16, res=32, seed=seed) for seed in range(3)]


@pytest.fixture
def net(tiny_known):
    torch.manual_seed(0)
    return backbone.build(variants.get("tiny"), 3, drop_rate=0.3, drop_path=0.2).train()


def step_of(model, *speed_ups):
    return TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        UNIT,
        label_smoothing=0.1,
        device=CPU,
        group=WorkerGroup(),
        speed_ups=speed_ups,
    )


def taken(step, batches=BATCHES):
    """Take the steps; give their losses, and a number that is drawn after them."""
    torch.manual_seed(5)
    losses = [step.step(batch, len(batch.labels))[0].loss.item() for batch in batches]
    return [*losses, torch.rand(()).item()]


def check_equal(net, other):
    for name, value in other.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def few_layers():
    """What an EfficientNet consists of, once each: a compiler takes minutes for all of one."""
    torch.manual_seed(0)
    return net_of(
        conv_stem=nn.Conv2d(3, 8, 3, 2),
        bn1=BatchNormAct2d(8),
        blocks=nn.Sequential(nn.Conv2d(8, 8, 1), DropPath(0.2)),
        global_pool=SelectAdaptivePool2d(pool_type="avg", flatten=True),
        classifier=nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 3)),
    ).train()


def test_a_compiled_net_trains_as_the_net_itself_does():
    found, plain = few_layers(), few_layers()
    step = step_of(found, "compile")
    values, wanted = taken(step), taken(step_of(plain))
    assert step.speed_ups == "compile"
    assert values == pytest.approx(wanted, rel=1e-5)
    assert values[-1] == wanted[-1]  # as many numbers are drawn
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_what_is_kept_of_a_compiled_net_goes_on_to_the_same():
    whole, begun, resumed = few_layers(), few_layers(), few_layers()
    taken(step_of(whole, "compile"))
    torch.manual_seed(5)
    first, second = step_of(begun, "compile"), step_of(resumed, "compile")
    first.step(BATCHES[0], 16)
    resumed.load_state_dict(begun.state_dict())
    second._optimizer.load_state_dict(first._optimizer.state_dict())
    for batch in BATCHES[1:]:
        second.step(batch, 16)
    check_equal(resumed, whole)


@pytest.mark.parametrize("backward", [False, True])
def test_a_net_that_is_not_compiled_after_all_trains_as_it_is(net, monkeypatch, caplog, backward):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("no compiler\nin many lines")

    def compiled(model, **_):
        def run(x):
            logits = model(x)  # so far it went well: numbers are drawn, and statistics followed
            if not backward:
                raise NotImplementedError("no compiler\nin many lines")
            return Broken.apply(logits)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    plain = copy.deepcopy(net)
    step = step_of(net, "compile")
    with caplog.at_level(logging.WARNING, "fixres"):
        assert taken(step) == taken(step_of(plain))
    check_equal(net, plain)
    assert step.speed_ups == "compile: not used, NotImplementedError"
    [record] = caplog.records
    assert record.getMessage().endswith("(no compiler): the net trains without it")


def test_a_mistake_of_the_net_itself_is_raised(net, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    net.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        taken(step_of(net, "compile"))


class Replayed(nn.Module):
    """A CUDA graph that replays nothing: the net is run anew. It refers to itself, as PyTorch's."""

    def __init__(self, model, example, replayed):
        super().__init__()
        self.model, self.shape, self.replayed = model, example.shape, replayed
        self.itself = (self,)
        self.room = None  # the first replay that memory runs out in

    def forward(self, x):
        assert x.shape == self.shape
        self.replayed.append(len(x))
        logits = self.model(x)
        if len(self.replayed) == self.room:
            raise torch.OutOfMemoryError("injected")
        return logits


@pytest.fixture
def recorded(monkeypatch):
    """CUDA graphs that replay nothing: weak references to them, and the sizes of their batches."""
    found = SimpleNamespace(graphs=[], replayed=[])

    def make_graphed_callables(model, examples, *, capture_error_mode):
        assert capture_error_mode == "thread_local"  # threads take memory for batches meanwhile
        (example,) = examples
        for _ in range(3):  # as PyTorch warms up
            model(example).sum().backward()
            model.zero_grad(set_to_none=True)
        graph = Replayed(model, example, found.replayed)
        found.graphs.append(weakref.ref(graph))
        return graph

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    return found


def test_recording_a_graph_leaves_no_trace_in_the_net_or_its_generators(net, recorded):
    plain = copy.deepcopy(net)
    step = step_of(net, "cuda_graph")
    assert taken(step) == taken(step_of(plain))
    check_equal(net, plain)
    assert recorded.replayed == [16] * 2 and step.speed_ups == "cuda_graph"


def test_a_graph_is_recorded_once_the_optimiser_has_all_that_it_keeps(net, recorded):
    """A graph keeps the memory of a whole step: beside it there would be no room for more."""
    step = step_of(net, "cuda_graph")
    step.step(BATCHES[0], 16)
    assert not recorded.graphs and len(step._optimizer.state) == len([*net.parameters()])
    step.step(BATCHES[1], 16)
    assert len(recorded.graphs) == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("injected"), RuntimeError("capturing")])
def test_where_no_graph_can_be_recorded_the_net_trains_as_it_is(net, monkeypatch, error):
    def refuse(model, examples, **_):
        model(*examples)
        raise error

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    plain = copy.deepcopy(net)
    step = step_of(net, "cuda_graph")
    assert taken(step) == taken(step_of(plain))
    check_equal(net, plain)
    assert step.speed_ups == f"cuda_graph: not used, {type(error).__name__}"
    assert step.micro_batch is None  # there is room for the batch, as it is


def test_where_memory_runs_out_beside_a_graph_the_graph_goes_not_the_batch(net, recorded):
    plain = copy.deepcopy(net)
    step, other = step_of(net, "cuda_graph"), step_of(plain)
    assert taken(step) == taken(other)
    recorded.graphs[0]().room = 3
    freed = []
    restore = step._before.restore

    def noted():
        freed.append(recorded.graphs[0]() is None)
        restore()

    step._before.restore = noted
    assert taken(step) == taken(other)
    check_equal(net, plain)
    assert freed == [True]  # before the batch is tried again
    assert len(recorded.graphs) == 1 and len(recorded.replayed) == 3
    assert step.micro_batch is None
    assert step.speed_ups == "cuda_graph: not used, OutOfMemoryError"


def test_what_is_the_processs_is_nothing_of_the_forward_pass(net):
    step = step_of(net, "copy_stream", "cudnn_benchmark")
    assert step.speed_ups == "" and taken(step)


def test_micro_batches_and_batches_of_another_size_are_not_replayed(net, recorded):
    plain = copy.deepcopy(net)
    batches = [*BATCHES, draw(9, res=32), BATCHES[0]]
    step, other = step_of(net, "cuda_graph"), step_of(plain)
    with room_for(net, 8), room_for(plain, 8):  # so that the graph is not recorded either
        assert taken(step) == taken(other)
    assert not recorded.graphs and step.micro_batch == 8
    step.try_more(16)
    other.try_more(16)
    assert taken(step, batches) == taken(other, batches)
    check_equal(net, plain)
    assert recorded.replayed == [16] * 4 and len(recorded.graphs) == 1


def test_where_other_parts_train_the_graph_is_recorded_anew(net, recorded):
    """A recording goes on with the parts that trained when it was made: the classifier alone."""
    plain, steps = copy.deepcopy(net), []
    for model, speed_ups in ((net, ("cuda_graph",)), (plain, ())):
        step = step_of(model, *speed_ups)
        backbone.into_training(model, classifier_alone=True)
        losses = taken(step)
        backbone.into_training(model)
        step.train_other_parts()
        if speed_ups:
            assert recorded.replayed == [16] * 2 and recorded.graphs[0]() is None
        steps.append(losses + taken(step))
    assert steps[0] == steps[1] and len(recorded.graphs) == 2 and recorded.replayed == [16] * 4
    check_equal(net, plain)


@pytest.mark.parametrize("name", ["compile", "cuda_graph"])
def test_several_workers_run_the_net_as_it_is_and_say_so(net, name, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    forward = TrainingForward(net, CPU, (name,), workers=2)
    assert forward.in_words == f"{name}: not by several workers"
    assert not forward.prepare(torch.zeros(2, 3, 32, 32))
