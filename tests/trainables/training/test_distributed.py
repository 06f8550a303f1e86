"""Two workers in processes of their own, on gloo: what they come to, and one alone beside them."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from tests import tiny_net
from tests.trainables.training.small_nets import CPU, UNIT, draw, plain_net
from trainables.data.loader import MixedIn, TrainBatch
from trainables.errors import UserError
from trainables.evaluation.inference import logits_of
from trainables.models import backbone, variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines, read_state
from trainables.training.distributed import WorkerGroup
from trainables.training.preemption import PreemptedError
from trainables.training.recipe import Hyper, Recipe
from trainables.training.train_step import TrainStep
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, recorded_reports
from trainables.training.validation import shared_logits
from trainables.transforms.eval_transform import EvalTransform

# A ResNet's batch norms have no activation, and it drops elsewhere; a ConvNeXt has layer norms.
FAMILIES = ("timm:resnet18", "timm:convnext_atto")
WORLD, EPOCHS, STEPS = 2, 2, 4  # steps an epoch, of 22 images in batches of 5
WEIGHTS = np.array([0.3, 4.0, 1.5])  # of classes in the loss
# Layers behind which memory runs out, and whether in the backward pass.
OUT_OF_MEMORY = [("conv_stem", False), ("classifier", False), ("bn2", True), ("conv_stem", True)]
SCORED = (EvalTransform(test_res=32, crop_pct=1.0, interpolation="bicubic"),)


def share_of(batch, group):
    own = slice(group.rank, None, group.world_size)
    mixed = batch.mixed_in
    return TrainBatch(
        batch.pixels[own],
        batch.labels[own],
        None if mixed is None else MixedIn(mixed.labels[own], mixed.share),
    )


def mixed_draw(images):
    """A batch whose images are mixed with those from the last to the first, by labels alone."""
    batch = draw(images, res=32)
    return replace(batch, mixed_in=MixedIn(batch.labels.flip(0), 0.3))


def still_net():
    """The real net, its batch norms as in testing: an image is then for itself."""
    torch.manual_seed(0)
    return backbone.build(variants.get("tiny"), 3).eval()


def whole_net(variant="tiny"):
    """The real net as it is trained: batch norm, dropout and skipped blocks see the whole batch.

    In float64: with weights by chance, rounding in float32 is all that some gradients consist of.
    """
    torch.manual_seed(0)
    net: Any = (
        backbone.build(variants.get(variant), 3, drop_rate=0.3, drop_path=0.4).train().double()
    )
    first = next(part for part in net.modules() if isinstance(part, nn.Conv2d))
    first.register_forward_pre_hook(lambda _module, inputs: (inputs[0].double(),))
    return net


def frozen_net():
    """The same, its batch norms frozen: each worker has gradients of a part of the weights."""
    net = whole_net()
    backbone.into_training(net, frozen_norms=True)
    return net


def step(net, batches, group, room=None, weights=None, at=None):
    """A step for each batch; this worker has memory for ``room`` images at once.

    Args:
        at: the layer behind which it runs out, and "backward" in which pass; None: the last.
    """

    def run_out(_module, inputs, outputs):
        if room and len((outputs if backward else inputs)[0]) > room:
            raise torch.OutOfMemoryError("injected")

    layer, backward = at or (list(dict(net.named_children()))[-1], False)
    module = net.get_submodule(layer)
    register = module.register_full_backward_hook if backward else module.register_forward_hook
    hook = register(run_out)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    train_step = TrainStep(
        net,
        optimizer,
        UNIT,
        label_smoothing=0.1,
        device=CPU,
        group=group,
        class_weights=weights,
    )
    flags = [
        train_step.step(
            share_of(batch, group), len(batch.labels), lambda: (group.rank == 1, False)
        )[1]
        for batch in batches
    ]
    hook.remove()
    return {
        "weights": copy.deepcopy(dict(net.named_parameters())),
        "gradients": {
            name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None
        },
        "micro_batch": train_step.micro_batch,
        "flags": flags,
        "statistics": copy.deepcopy(dict(net.named_buffers())),
    }


def exchanged(group):
    buffers = [torch.full((2,), float(group.rank)), torch.tensor(10 + group.rank)]
    group.broadcast(buffers)
    rows = torch.arange(7.0)[:, None].expand(7, 2)[group.rank :: group.world_size]
    return {
        "any_true": group.any_true(group.rank == 0, group.rank == 1, False),
        "sum": group.all_reduce_sum(torch.tensor([1.0, group.rank])),
        "gathered": group.all_gather(torch.tensor([group.rank])),
        "rows": group.gather_rows(rows, 7),
        "broadcast": buffers,
    }


def training_of(work, name, group, should_stop=lambda: False):
    return TrunkTraining(
        work.spec,
        work.images,
        Store(work.root / name),
        cache=work.root / "cache",
        threads=1,
        val_transforms=SCORED,
        rungs=(EPOCHS,),
        should_stop=should_stop,
        group=group,
        device=CPU,
    )


def trained(work, name, group, stops=()):
    """Train the trunk. Where ``stops`` says so, the last worker is interrupted."""
    asked: list[int] = []

    def should_stop():
        asked.append(1)
        return group.rank == group.world_size - 1 and len(asked) in stops

    training = training_of(work, name, group, should_stop)
    while training.trained_epochs < EPOCHS:
        try:
            training.epoch()
        except PreemptedError:
            torch.manual_seed(99)  # another process has another generator
            training = training_of(work, name, group, should_stop)
    return {"reports": training.reports, "buffers": dict(training.model.named_buffers())}


def probed(work):
    """The same trunk, from a probe, and its classifier at first alone."""
    recipe = replace(work.spec.recipe, start="probe", head_only_epochs=1)
    return SimpleNamespace(**{**vars(work), "spec": replace(work.spec, recipe=recipe)})


def main(rank, work):
    with tiny_net.known():
        found = worked(rank, work)
    torch.save(found, work.root / f"{rank}.pt")


def worked(rank, work):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{work.root}/meet", rank=rank, world_size=WORLD)
    group = WorkerGroup(rank=rank, world_size=WORLD)
    batches = [draw(9, res=32), draw(8, res=32, seed=1)]
    larger = [draw(18, res=32), draw(16, res=32, seed=1)]
    found = {
        "exchanged": exchanged(group),
        "first": step(still_net(), batches[:1], group),
        "steps": step(still_net(), batches, group),
        "cramped": step(still_net(), batches, group, room=2 if rank == 1 else None),
        "weighted": step(still_net(), batches[:1], group, weights=WEIGHTS),
        "weighted and cramped": step(
            still_net(), batches[:1], group, room=2 if rank == 1 else None, weights=WEIGHTS
        ),
        "mixed": step(still_net(), [mixed_draw(9)], group, weights=WEIGHTS),
        "normed": step(whole_net(), batches, group),
        "frozen": step(frozen_net(), batches, group),
        "frozen and cramped": step(frozen_net(), batches, group, room=3 if rank == 1 else None),
        **{f"normed {name}": step(whole_net(name), batches, group) for name in FAMILIES},
        **{
            f"out of memory {at}": step(
                whole_net(), larger, group, room=5 if rank == 1 else None, at=at
            )
            for at in OUT_OF_MEMORY
        },
        "one image scored": shared_logits(
            plain_net(),
            draw(1).pixels.numpy(),
            UNIT,
            batch_size=4,
            device=CPU,
            group=group,
            should_stop=lambda: False,
        ),
        "still": step(whole_net(), batches, group, room=3 if rank == 1 else None),
        "whole": trained(work, "whole", group),
        "probed": trained(probed(work), "probed", group),
        # After two steps of the second epoch, and between the batches of val.
        "parts": trained(work, "parts", group, stops=(STEPS + 2, 2 * STEPS + 2)),
    }
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def work(tiny_images, tiny_weights, tiny_known, tmp_path_factory):
    root = tmp_path_factory.mktemp("workers")
    for name in ("whole", "parts", "probed", "alone"):
        weights = find_weights(variants.get("tiny"), str(tiny_weights), Store(root / name))
    spec = TrunkSpec(
        variant="tiny",
        train_res=32,
        weights=weights,
        images=tiny_images.digest,
        recipe=Recipe(
            epochs=EPOCHS, batch_size=5, warmup_epochs=0.0, ema_decay=0.9, sampling="balanced"
        ),
        hyper=Hyper(lr=1e-3, weight_decay=0.05, label_smoothing=0.1),
        seed=0,
    )
    return SimpleNamespace(root=root, spec=spec, images=tiny_images)


@pytest.fixture(scope="module")
def workers(work):
    """What each of the two has come to."""
    spawn(main, (work,), nprocs=WORLD)
    return [torch.load(work.root / f"{r}.pt", weights_only=False) for r in range(WORLD)]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_collective_operations_give_every_worker_the_same(workers):
    for found in (found["exchanged"] for found in workers):
        assert found["any_true"] == (True, True, False)
        assert found["sum"].tolist() == [2, 1]
        assert found["gathered"].tolist() == [[0], [1]]
        assert found["rows"].tolist() == [[i, i] for i in range(7)]
        assert [b.tolist() for b in found["broadcast"]] == [[0, 0], 10]


def test_a_worker_alone_exchanges_nothing():
    group, tensor = WorkerGroup(), torch.tensor([1.0, 2.0])
    assert group.any_true(True, False) == (True, False)
    group.barrier()
    group.broadcast([tensor])
    assert torch.equal(group.all_reduce_sum(tensor), torch.tensor([1.0, 2.0]))
    assert torch.equal(group.all_gather(tensor), tensor[None])
    assert torch.equal(group.gather_rows(torch.eye(3), 3), torch.eye(3))


@pytest.mark.parametrize("count", range(1, 9))
def test_rows_come_back_in_order_from_any_number_of_workers(count):
    rows = torch.arange(float(count))[:, None]

    class Three(WorkerGroup):
        def all_gather(self, padded):
            shares = [rows[rank::3] for rank in range(3)]
            assert torch.equal(padded[: len(shares[self.rank])], shares[self.rank])
            return torch.stack(
                [torch.cat([s, torch.full((len(padded) - len(s), 1), -1.0)]) for s in shares]
            )

    for rank in range(3):
        found = Three(rank=rank, world_size=3).gather_rows(rows[rank::3], count)
        assert torch.equal(found, rows)


@pytest.mark.parametrize("scene", ["first", "weighted", "weighted and cramped", "mixed"])
def test_a_step_of_two_workers_has_the_gradients_of_the_whole_batch(workers, scene):
    """Where classes have weights, the shares of the batch weigh unlike: 12.5 and 4.9."""
    batch = mixed_draw(9) if scene == "mixed" else draw(9, res=32)
    weights = None if scene == "first" else WEIGHTS
    wanted = step(still_net(), [batch], WorkerGroup(), weights=weights)["gradients"]
    for found in (found[scene]["gradients"] for found in workers):
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("scene", ["steps", "cramped"])
def test_all_workers_have_the_same_weights_and_those_of_one_alone(workers, scene):
    one, other = (found[scene]["weights"] for found in workers)
    assert equal(one, other)
    alone = step(still_net(), [draw(9, res=32), draw(8, res=32, seed=1)], WorkerGroup())["weights"]
    for name, weight in alone.items():
        torch.testing.assert_close(one[name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("variant", ["tiny", *FAMILIES])
def test_two_workers_normalise_and_drop_as_one_does(workers, variant):
    """Batches of 9 and 8: one worker has an image more."""
    scene = "normed" if variant == "tiny" else f"normed {variant}"
    one, other = (found[scene] for found in workers)
    assert equal(one["weights"], other["weights"]) and equal(one["statistics"], other["statistics"])
    batches = [draw(9, res=32), draw(8, res=32, seed=1)]
    alone = step(whole_net(variant), batches, WorkerGroup())
    for what in ("weights", "gradients", "statistics"):
        assert one[what].keys() == alone[what].keys()
        for name, value in alone[what].items():
            torch.testing.assert_close(one[what][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_two_workers_train_what_is_not_frozen_as_one_does(workers):
    one, other = (found["frozen and cramped"] for found in workers)
    assert equal(one["weights"], other["weights"])
    one, other = (found["frozen"] for found in workers)
    assert equal(one["weights"], other["weights"])
    alone = step(frozen_net(), [draw(9, res=32), draw(8, res=32, seed=1)], WorkerGroup())
    assert not any("bn" in name for name in one["gradients"])
    for what in ("weights", "gradients", "statistics"):
        assert one[what].keys() == alone[what].keys()
        for name, value in alone[what].items():
            torch.testing.assert_close(one[what][name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("at", OUT_OF_MEMORY)
def test_no_worker_waits_for_one_whose_memory_runs_out_in_any_pass(workers, at):
    one, other = (found[f"out of memory {at}"] for found in workers)
    assert [found["micro_batch"] for found in (one, other)] == [5, 5]
    assert equal(one["weights"], other["weights"]) and equal(one["statistics"], other["statistics"])
    steps = {name: int(n) for name, n in one["statistics"].items() if "tracked" in name}
    assert set(steps.values()) == {4}  # two micro-batches of each batch, and none that failed


def test_norms_of_all_workers_stand_still_where_one_has_memory_for_too_few_images(workers):
    one, other = (found["still"] for found in workers)
    assert [found["micro_batch"] for found in (one, other)] == [3, 3]
    assert equal(one["weights"], other["weights"])
    start = dict(whole_net().named_buffers())
    assert equal(one["statistics"], start) and equal(other["statistics"], start)


def test_memory_that_runs_out_in_one_worker_halves_the_micro_batch_of_all(workers):
    assert [found["steps"]["micro_batch"] for found in workers] == [None, None]
    assert [found["cramped"]["micro_batch"] for found in workers] == [3, 3]  # 4 images: 2, 2


def test_a_flag_of_one_worker_is_known_to_all(workers):
    for found in workers:
        assert found["cramped"]["flags"] == [(True, False)] * 2


def undated(reports):
    """The reports without what depends on the clock."""
    return [replace(r, seconds=0.0, probe_s=0.0, probe_wait_s=0.0, at=0) for r in reports]


def test_workers_agree_on_every_report_and_on_the_statistics(workers):
    one, other = (found["whole"] for found in workers)
    plain = [undated(found["reports"]) for found in (one, other)]
    assert plain[0] == plain[1]
    assert equal(one["buffers"], other["buffers"])


def test_the_probe_that_one_of_the_workers_fits_counts_for_all(workers):
    fitted_s = {found["probed"]["reports"][0].probe_s for found in workers}
    assert len(fitted_s) == 1 and fitted_s.pop() > 0


@pytest.mark.parametrize("name", ["whole", "probed"])
def test_a_trunk_of_two_workers_is_that_of_one_up_to_rounding(workers, work, name):
    alone = trained(probed(work) if name == "probed" else work, "alone", WorkerGroup())
    together = workers[0][name]
    for one, other in zip(together["reports"], alone["reports"], strict=True):
        assert one.device == f"2 x {other.device}"
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        measured = {"loss": 0.0, "seconds": 0.0, "at": 0, "device": ""}
        measured |= {"probe_s": 0.0, "probe_wait_s": 0.0}
        assert replace(one, **measured) == replace(other, **measured)


def test_workers_without_an_image_of_val_have_the_logits_of_the_others(workers):
    net = plain_net().eval()
    alone = logits_of(net, draw(1).pixels.numpy(), UNIT, batch_size=4, device=CPU)
    for found in workers:
        torch.testing.assert_close(found["one image scored"], alone)


def test_interrupted_workers_go_on_to_the_same_trunk_bit_for_bit(workers, work):
    whole, parts = (Store(work.root / name) for name in ("whole", "parts"))
    states = [read_state(store.trunk(work.spec.key) / "state.pt") for store in (whole, parts)]
    one, other = (state for state in states if state)
    assert equal(one["model"], other["model"]) and equal(one["ema"], other["ema"])
    plain = [undated(recorded_reports(store, work.spec.key)) for store in (whole, parts)]
    assert plain[0] == plain[1]
    lines = read_lines(parts.trunk(work.spec.key) / "work.jsonl")
    assert [(line["epoch"], line["steps"]) for line in lines] == [(1, STEPS), (2, STEPS)]


def test_one_worker_goes_on_with_what_two_have_begun(workers, work):
    spec = replace(work.spec, recipe=replace(work.spec.recipe, epochs=EPOCHS))
    training = training_of(SimpleNamespace(**{**vars(work), "spec": spec}), "whole", WorkerGroup())
    assert training.trained_epochs == EPOCHS
    assert training.epoch().images == 20


def test_too_many_workers_for_a_batch_are_refused(work):
    with pytest.raises(UserError, match="`workers_per_trial` 3"):
        training_of(work, "alone", WorkerGroup(rank=0, world_size=3))


@pytest.mark.parametrize("drawn", [None, np.array([3, 1, 3, 3, 0, 21, 3, 8, 1, 5, 3])])
@pytest.mark.parametrize("distorted", [False, True])
def test_shares_make_up_the_batch(tiny_images, drawn, distorted):
    from trainables.data.loader import train_batches
    from trainables.transforms.augmentation import Augmentation, Distortions

    distortions = (
        Distortions(auto_augment="trivial", mixup=0.8, cutmix=1.0, random_erasing=0.5)
        if distorted
        else Distortions()
    )

    def batches(**named: Any):
        given: dict[str, Any] = {"batch_size": 5, "augmentation": Augmentation(), "seed": (0, 1)}
        given |= {"drawn": drawn, "preprocessing": UNIT, "distortions": distortions}
        return list(train_batches(tiny_images.split("train"), 32, threads=1, **given, **named))

    shares = [batches(rank=rank, world=3) for rank in range(3)]
    for b, whole in enumerate(batches()):
        for rank in range(3):
            found, wanted = shares[rank][b], share_of(whole, WorkerGroup(rank=rank, world_size=3))
            assert torch.equal(found.pixels, wanted.pixels)
            for own, of_whole in zip(found.targets, wanted.targets, strict=True):
                assert torch.equal(own[0], of_whole[0]) and own[1] == of_whole[1]
