"""What runs on a GPU: on one device, and without the host waiting for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests import tiny_net
from tests.trainables.adapted import HEADS, VIEWS, WHOLE
from tests.trainables.fake_cuda import CUDA, Traffic, fake_cuda
from trainables.data import loader
from trainables.data.image_set import ImageSet
from trainables.data.view_cache import ViewCache
from trainables.evaluation.inference import batches_of, logits_of
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec
from trainables.fixres.heads import fit
from trainables.fixres.held_out_score import held_out_test, score_held_out
from trainables.fixres.passes import cell_passes
from trainables.models import backbone, device, variants
from trainables.models.map_shape import map_shape
from trainables.models.speed_ups import SpeedUp
from trainables.models.transfer import host_memory
from trainables.models.weights import Weights
from trainables.profiling import torch_latency
from trainables.profiling.latency import Setting
from trainables.storage.artifact_store import Store
from trainables.training import train_step
from trainables.training.epoch_progress import EpochProgress
from trainables.training.moving_average import MovingAverage
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, TrunkStatus, finalize_trunk

TRAIN, VAL, CLASSES = 22, 15, 3
TRAIN_RES = 32  # px

pytestmark = [
    pytest.mark.usefixtures("tiny_known"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]


@pytest.fixture
def gpu() -> Iterator[Traffic]:
    with fake_cuda() as traffic:
        yield traffic


def training_of(
    images: ImageSet,
    root: Path,
    batch_size: int,
    rungs: tuple[int, ...] = (),
    speed_ups: tuple[SpeedUp, ...] = (),
    **recipe: Any,
) -> TrunkTraining:
    spec = TrunkSpec(
        variant=tiny_net.NAME,
        train_res=TRAIN_RES,
        weights=Weights(variant="tiny", source="none", digest="none", name=None, classes=0),
        images=images.digest,
        recipe=Recipe(epochs=1, batch_size=batch_size, warmup_epochs=0.0, ema_decay=0.9, **recipe),
        hyper=Hyper(lr=1e-3, weight_decay=0.05, label_smoothing=0.1),
        seed=0,
    )
    return TrunkTraining(
        spec,
        images,
        Store(root / f"store-{batch_size}"),
        cache=root / "cache",
        threads=2,
        val_transforms=(WHOLE,),
        rungs=rungs,
        speed_ups=speed_ups,
    )


def net_on_gpu() -> backbone.Net:
    return backbone.to_device(backbone.build(variants.get(tiny_net.NAME), CLASSES), CUDA)


# --- training ---------------------------------------------------------------------------------


def epoch_traffic(
    gpu: Traffic, images: ImageSet, root: Path, batch_size: int, **recipe: Any
) -> Traffic:
    training = training_of(images, root, batch_size, **recipe)
    gpu.clear()
    training.epoch()
    return Traffic(*map(Counter, vars(gpu).values()))


def check_steps(
    gpu: Traffic, images: ImageSet, root: Path, copies_a_step: int = 2, **recipe: Any
) -> None:
    """An epoch of five steps does what one of two does, but for copies that nothing waits for.

    These are of pixels and of labels, or of both at once.
    """
    two, five = (epoch_traffic(gpu, images, root, size, **recipe) for size in (11, 4))
    assert five.waits == two.waits
    assert five.blocking_copies.total() <= two.blocking_copies.total()
    assert (five.copies - two.copies).total() == 3 * copies_a_step


RECIPES: list[dict[str, Any]] = [
    {},
    {"optimizer": "sgd", "class_weights": "balanced"},
    {"sampling": "balanced", "random_erasing": 0.5, "auto_augment": "rand", "ema_warmup": True},
    {"drop_path": 0.2, "clip_grad": 1.0, "layer_decay": 0.7, "auto_augment": "trivial"},
    {"freeze_batch_norm": True, "class_weights": "sqrt"},
    {"head_only_epochs": 1, "schedule": "constant", "dropout": False},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_step_waits_for_nothing(gpu, tiny_images, tmp_path, recipe):
    check_steps(gpu, tiny_images, tmp_path, **recipe)


def test_a_step_whose_batch_is_mixed_copies_both_labels(gpu, tiny_images, tmp_path):
    mixed = {"mixup": 0.2, "cutmix": 1.0, "class_weights": "balanced"}
    check_steps(gpu, tiny_images, tmp_path, copies_a_step=3, **mixed)


def test_a_trunk_that_begins_from_a_probe_trains_on_the_gpu(gpu, tiny_images, tmp_path):
    training = training_of(tiny_images, tmp_path, 4, start="probe", class_weights="sqrt")
    report = training.epoch()
    assert report.probe_s > 0 and report.images == 20
    assert any(line.startswith("linear_probe.py") for line in gpu.waits)
    assert not any(line.startswith("train_step.py") for line in gpu.waits)


@pytest.mark.parametrize("recipe", [{}, {"clip_grad": 1.0, "optimizer": "sgd"}], ids=str)
def test_a_step_in_fp16_waits_for_nothing(gpu, tiny_images, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(device, "_precision", "fp16")
    check_steps(gpu, tiny_images, tmp_path, **recipe)


@pytest.fixture
def ahead(gpu: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_copies_ahead", True)


@pytest.mark.parametrize("recipe", [{}, {"class_weights": "balanced", "cutmix": 1.0}], ids=str)
def test_a_batch_that_is_copied_ahead_is_copied_once(gpu, ahead, tiny_images, tmp_path, recipe):
    check_steps(gpu, tiny_images, tmp_path, copies_a_step=1, **recipe)
    steps = epoch_traffic(gpu, tiny_images, tmp_path / "again", 4, **recipe).copies
    assert sum(n for line, n in steps.items() if line.startswith("host_memory.py")) == 5


def test_steps_of_a_graph_are_replayed_and_wait_for_nothing(gpu, tiny_images, tmp_path):
    replayed = []

    def make_graphed_callables(net, examples, **_):
        assert [x.device.type for x in examples] == ["cuda"]

        def replay(x):
            replayed.append(len(x))
            return net(x)

        return replay

    with patch.object(torch.cuda, "make_graphed_callables", make_graphed_callables):
        check_steps(gpu, tiny_images, tmp_path, speed_ups=("cuda_graph",))
    assert replayed == [11] * 1 + [4] * 4  # the first step of each is taken as it is


def wait_for_loss(patch: pytest.MonkeyPatch) -> None:
    add = EpochProgress.add
    patch.setattr(
        EpochProgress, "add", lambda self, step, n: (step.loss.item(), add(self, step, n))
    )


def copy_from_anywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(host_memory, "empty", lambda shape, dtype, _: torch.zeros(shape, dtype=dtype))


def leave_pixels_behind(patch: pytest.MonkeyPatch) -> None:
    to_gpu = loader.normalize_on_device
    cpu = torch.device("cpu")
    patch.setattr(train_step, "normalize_on_device", lambda p, how, _: to_gpu(p, how, cpu))


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (wait_for_loss, AssertionError),
        (copy_from_anywhere, AssertionError),
        (leave_pixels_behind, RuntimeError),
    ],
)
def test_mistakes_are_seen(gpu, tiny_images, tmp_path, monkeypatch, mistake, error):
    mistake(monkeypatch)
    with pytest.raises(error, match=r"Counter|blocking|device"):
        check_steps(gpu, tiny_images, tmp_path)


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda there: there[0].item(),
    "truth": lambda there: bool(there[0] > 0),
    "number": lambda there: float(there.sum()),
    "list": lambda there: there.tolist(),
    "to the CPU": lambda there: there.to("cpu", non_blocking=True),
    "chosen by a mask": lambda there: there[there > 0],
    "set by a mask": lambda there: there.__setitem__(there > 0, torch.zeros_like(there)),
    "the device": lambda there: torch.cuda.synchronize(),
    "a stream": lambda there: torch.cuda.current_stream(there.device).synchronize(),
    "an event": lambda there: torch.cuda.Event().synchronize(),
}
BLOCKING_COPIES: dict[str, Callable[[torch.Tensor], object]] = {
    "made on the CPU": lambda there: torch.zeros(3).to(there.device, non_blocking=True),
    "made of a number": lambda there: torch.tensor(1.0, device=there.device),
    "made as another": lambda there: there.new_tensor([1.0, 2.0]),
    "of an array": lambda there: torch.as_tensor(np.ones(3), device=there.device),
    "waited for": lambda there: torch.empty(3, pin_memory=True).to(there.device),
    "into another": lambda there: there.copy_(torch.zeros(3), non_blocking=True),
    "of places": lambda there: there[[0, 2]],
}
FREE: dict[str, Callable[[torch.Tensor], object]] = {
    "a sum": lambda there: there + there,
    "of its memory": lambda there: torch.empty(3, pin_memory=True).to(CUDA, non_blocking=True),
    "filled by a mask": lambda there: there.__setitem__(there > 0, 1.0),
    "norm": lambda there: torch.nn.utils.clip_grad_norm_([with_gradient(there)], 1.0),
}


def with_gradient(there: torch.Tensor) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(there)
    parameter.grad = torch.ones_like(there)
    return parameter


@pytest.mark.parametrize("name", [*WAITS, *BLOCKING_COPIES, *FREE])
def test_whatever_the_host_waits_for_is_counted(gpu, name):
    there = torch.zeros(3).to(CUDA)
    gpu.clear()
    {**WAITS, **BLOCKING_COPIES, **FREE}[name](there)
    assert bool(gpu.waits) == (name in WAITS)
    assert bool(gpu.blocking_copies) == (name in BLOCKING_COPIES)


def test_what_is_kept_beside_the_step_takes_a_launch_for_each_dtype(gpu):
    model = net_on_gpu().train()
    average, before = MovingAverage(model, 0.9), train_step._StateBeforeStep(model, CUDA)
    for work in (before.keep, before.restore, lambda: average.update(model, step=9)):
        gpu.clear()
        work()
        assert gpu.launches.total() == 2 and not gpu.waits


# --- scoring and cells ------------------------------------------------------------------------


def test_a_batch_to_score_is_copied_once_and_waited_for_once(gpu, tiny_images, tmp_path):
    view = ViewCache(images=tiny_images, cache=tmp_path, threads=1).view("val", WHOLE)
    preprocessing = variants.preprocessing(variants.get(tiny_net.NAME))
    model = net_on_gpu()
    logits_of(model, view[:4], preprocessing, batch_size=4, device=CUDA)  # what is made once
    gpu.clear()
    logits = logits_of(model, view, preprocessing, batch_size=4, device=CUDA)
    assert logits.device.type == "cpu" and len(logits) == VAL
    assert gpu.copies.total() == gpu.waits.total() == 4 and not gpu.blocking_copies


def test_batches_to_score_are_copied_ahead_too(gpu, ahead, tiny_images, tmp_path):
    test_a_batch_to_score_is_copied_once_and_waited_for_once(gpu, tiny_images, tmp_path)
    assert all(line.startswith("host_memory.py") for line in gpu.copies)


def test_a_streamed_view_is_rendered_where_the_gpu_copies_it_from(gpu, tiny_images, tmp_path):
    view = ViewCache(images=tiny_images, cache=tmp_path, threads=2).train_view(WHOLE)
    preprocessing = variants.preprocessing(variants.get(tiny_net.NAME))
    list(batches_of(view.part(0, 4), 4, preprocessing, CUDA))  # what is made once
    gpu.clear()
    with patch.object(host_memory, "filled_ahead", side_effect=AssertionError("copied once more")):
        batches = list(batches_of(view, 4, preprocessing, CUDA))
    assert gpu.copies.total() == len(batches) == 6 and not gpu.blocking_copies


@pytest.fixture(params=[True, False], ids=["float64", "no float64"])
def any_gpu(request: pytest.FixtureRequest) -> Iterator[Traffic]:
    map_shape(tiny_net.NAME, TRAIN_RES)  # kept from here on: no stand-in has a meta device
    with fake_cuda(has_float64=request.param) as traffic:
        yield traffic


def test_a_gpu_without_float64_refuses_it():
    with fake_cuda(has_float64=False):
        ones = torch.ones(2).to(CUDA)
        with pytest.raises(TypeError, match="no float64"):
            ones.sum(dtype=torch.float64)


def cell_of(training: TrunkTraining, arms: tuple[str, ...], prefix: int | None) -> CellSpec:
    """A cell of the trunk, which has ended."""
    finalize_trunk(training.store, training.spec.key, TrunkStatus.FINISHED)
    return CellSpec(
        trunk=training.spec.key,
        transform=WHOLE,
        arms=arms,
        heads=HEADS,
        views=VIEWS,
        batch_size=4,
        seed=3,
        prefix=prefix,
    )


@pytest.mark.parametrize("prefix", [None, 8])
def test_a_trunk_and_all_arms_of_its_cell_run_on_the_gpu(any_gpu, tiny_images, tmp_path, prefix):
    gpu = any_gpu
    training = training_of(tiny_images, tmp_path, 4, rungs=(1,))
    report = training.epoch()
    assert report.val[WHOLE.test_res].n == VAL and not report.diverged
    cell = cell_of(training, tuple(ARMS), prefix)
    gpu.clear()
    results = adapt_cell(cell, training.store, training.views)
    assert [result.arm for result in results] == list(ARMS)
    assert not [line for line in gpu.blocking_copies if line.startswith("loader.py")]
    test = held_out_test(tiny_images)
    read = score_held_out(test, training.store, cell, tuple(ARMS), training.views)
    assert {result.score.split for result in read.values()} == {"test"}


def test_steps_of_classifiers_wait_for_nothing(gpu):
    features, labels = torch.rand(24, 8).to(CUDA), (torch.arange(24) % CLASSES).to(CUDA)
    start = torch.zeros(CLASSES, 8).to(CUDA), torch.zeros(CLASSES).to(CUDA)
    found = []
    for batch_size in (24, 4):
        gpu.clear()
        grid = replace(HEADS, batch_size=batch_size, optimizer=("sgd", "adamw"))
        fit([features], labels, features, labels, *start, grid, seed=0)
        found.append((Counter(gpu.waits), Counter(gpu.blocking_copies)))
    assert found[0] == found[1] and found[0][0]  # val is scored once an epoch


def test_features_that_a_gpu_has_no_room_for_stay_on_the_host(
    gpu, tiny_images, tmp_path, monkeypatch
):
    training = training_of(tiny_images, tmp_path, 4)
    training.epoch()
    cell = cell_of(training, ("fix", "fix_aug"), prefix=9)
    tried = []

    def fit_on_host(views, *given, at_once, **named):
        tried.append((at_once, {isinstance(view, torch.Tensor) for view in views}))
        if isinstance(views[0], torch.Tensor):
            raise torch.OutOfMemoryError("injected")
        return fit(views, *given, at_once=at_once, **named)

    monkeypatch.setattr(cell_passes, "fit", fit_on_host)
    gpu.clear()
    results = adapt_cell(cell, training.store, training.views)
    assert [result.arm for result in results] == ["fix", "fix_aug"]
    # All settings at once, of fix_aug those with label smoothing: first with features on the GPU.
    assert tried == [(4, {True}), (4, {False}), (2, {True}), (2, {False})]
    assert any(line.startswith("feature_parts.py") for line in gpu.copies)
    assert not any(line.startswith("feature_parts.py") for line in gpu.blocking_copies)


def test_latency_in_torch_is_timed_on_the_gpu(gpu):
    setting = Setting(runtime="torch", threads=1, batch=1, throughput_batch=2)
    assert torch_latency.conditions(setting).precision == "bf16"
    with torch_latency.open_nets([(tiny_net.NAME, 32)], CLASSES, setting) as nets:
        call = nets[tiny_net.NAME, 32](1)
        gpu.clear()
        call()
    assert list(gpu.waits.values()) == [1] and not gpu.blocking_copies  # for the whole net
