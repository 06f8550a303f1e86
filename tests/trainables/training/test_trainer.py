import copy
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from tests.trainables.training.small_nets import CPU, UNIT
from trainables.data.loader import TrainBatch, normalize_on_device, train_batches
from trainables.evaluation import linear_probe
from trainables.evaluation.inference import logits_of, logits_of_batch
from trainables.evaluation.metrics import score
from trainables.models import backbone, variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import read_lines
from trainables.training import trainer, validation
from trainables.training.optim import lr_factor
from trainables.training.preemption import PreemptedError
from trainables.training.recipe import Hyper, Recipe
from trainables.training.train_step import StepResult
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import (
    Parent,
    TrunkSpec,
    TrunkStatus,
    finalize_trunk,
    read_trunk_spec,
    read_trunk_weights,
    recorded_reports,
)
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.eval_transform import EvalTransform

RES, STEPS, SEEN = 32, 2, 16  # px; steps an epoch; images an epoch, of 22 in batches of 8
RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    optimizer="adamw",
    schedule="cosine",
    warmup_epochs=1.0,
    ema_decay=0.7,
    dropout=True,
    augmentation=Augmentation(),
)
HYPER = Hyper(lr=2e-3, weight_decay=0.05, label_smoothing=0.1)


def whole(res):
    return EvalTransform(test_res=res, crop_pct=1.0, interpolation="bicubic")


@pytest.fixture
def make(tiny_images, tiny_weights, tiny_known, tmp_path):
    """Start, or take up, a training in the store of that name."""

    def training(
        name="store",
        val_transforms=(32,),
        rungs=(),
        hyper=HYPER,
        seed=0,
        repeat=0,
        parent=None,
        should_stop=lambda: False,
        speed_ups=(),
        **recipe: Any,
    ):
        store = Store(tmp_path / name)
        spec = TrunkSpec(
            variant="tiny",
            train_res=RES,
            weights=find_weights(variants.get("tiny"), str(tiny_weights), store),
            images=tiny_images.digest,
            recipe=replace(RECIPE, **recipe),
            hyper=hyper,
            seed=seed,
            repeat=repeat,
            parent=parent,
        )
        return TrunkTraining(
            spec,
            tiny_images,
            store,
            cache=tmp_path / "cache",
            threads=2,
            val_transforms=tuple(whole(res) for res in val_transforms),
            rungs=rungs,
            should_stop=should_stop,
            speed_ups=speed_ups,
        )

    return training


def state_of(training):
    return torch.load(training.folder / "state.pt", weights_only=True)


def same(one, other):
    """Equal bit for bit, tensors within containers included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def undated(reports):
    """The reports without what depends on the clock."""
    return [replace(r, seconds=0.0, probe_s=0.0, probe_wait_s=0.0, at=0) for r in reports]


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"optimizer": "sgd", "ema_decay": 0.0, "schedule": "constant"},
        {"class_weights": "balanced"},
        {"freeze_batch_norm": True, "drop_path": 0.2},
        {"start": "probe", "head_only_epochs": 2},
        {"auto_augment": "rand", "mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5},
    ],
    ids=["adamw with ema", "sgd without", "class weights", "frozen norms", "probed", "distorted"],
)
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(make, recipe):
    whole = make("whole", rungs=(1, 3), **recipe)
    for _ in range(3):
        whole.epoch()
    make("parts", rungs=(1, 3), **recipe).epoch()
    taken_up = make("parts", rungs=(1, 3), **recipe)
    assert taken_up.trained_epochs == 1
    torch.manual_seed(99)  # another process has another generator
    taken_up.epoch()
    taken_up.epoch()
    one, other = state_of(whole), state_of(taken_up)
    assert ("ema" in one) == ("ema_decay" not in recipe)
    assert all(same(one[part], other[part]) for part in one if part != "reports")
    assert undated(whole.reports) == undated(taken_up.reports)
    assert whole.spec.key == taken_up.spec.key


@pytest.mark.parametrize(("seed", "sampling"), [(0, "uniform"), (1, "uniform"), (2, "balanced")])
def test_a_training_interrupted_anywhere_ends_as_the_undisturbed_one_bit_for_bit(
    make, seed, sampling
):
    shape: dict[str, Any] = {"batch_size": 4, "rungs": (1, 3), "val_transforms": (32, 48)}
    shape |= {"sampling": sampling, "mixup": 0.4, "random_erasing": 0.5 * (seed > 0)}
    whole, asked = make("whole", **shape), []
    for _ in range(3):
        whole.epoch()
    # Asked after each of 15 steps, and before each of 4 batches of val at two resolutions, twice.
    stops = {*np.random.default_rng(seed).choice(15 + 16, 4, replace=False).tolist(), 17 + seed}

    def should_stop():
        asked.append(1)
        return len(asked) in stops

    training, processes = make("parts", should_stop=should_stop, **shape), 1
    while training.trained_epochs < 3:
        before = list(training.reports)
        try:
            training.epoch()
        except PreemptedError:
            assert recorded_reports(training.store, training.spec.key) == before
            torch.manual_seed(99)  # another process has another generator
            training, processes = make("parts", should_stop=should_stop, **shape), processes + 1
    assert processes > 2
    one, other = state_of(whole), state_of(training)
    assert all(same(one[part], other[part]) for part in one if part != "reports")
    assert undated(whole.reports) == undated(training.reports)
    work = read_lines(training.folder / "work.jsonl")
    assert [(line["epoch"], line["steps"]) for line in work] == [(1, 5), (2, 5), (3, 5)]
    assert [line["seconds"] for line in work] == [r.seconds for r in training.reports]


def test_the_seconds_of_an_epoch_are_those_of_all_its_parts(make, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    whole = make("whole").epoch().seconds
    training = make("parts", should_stop=lambda: True)
    with pytest.raises(PreemptedError):
        training.epoch()
    first = state_of(training)["progress"]["seconds"]
    assert 0 < first < whole
    assert make("parts").epoch().seconds > first


def test_the_seconds_of_a_probe_are_reported_by_the_epoch_that_was_interrupted(make):
    with pytest.raises(PreemptedError):
        make(start="probe", should_stop=lambda: True).epoch()
    training = make(start="probe")
    saved = state_of(training)["progress"]
    first, second = training.epoch(), training.epoch()
    assert first.probe_s == round(saved["probe_s"], 3) > 0
    assert first.probe_wait_s == round(saved["probe_wait_s"], 3)
    assert second.probe_s == second.probe_wait_s == 0.0


def test_a_long_epoch_is_saved_within_and_a_kill_costs_what_came_after(make, monkeypatch):
    whole = make("whole", batch_size=4)
    whole.epoch()
    monkeypatch.setattr(trainer, "SAVE_EVERY_S", -1.0)
    training, steps = make("parts", batch_size=4), []

    def killed(*_):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    training.optimizer.register_step_pre_hook(killed)
    with pytest.raises(KeyboardInterrupt):
        training.epoch()
    assert recorded_reports(training.store, training.spec.key) == []
    assert state_of(training)["progress"]["batches"] == 3
    with pytest.raises(DamagedFileError, match="within an epoch"):
        finalize_trunk(training.store, training.spec.key, TrunkStatus.CUT)
    monkeypatch.setattr(trainer, "SAVE_EVERY_S", 1e9)
    taken_up = make("parts", batch_size=4)
    taken_up.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    taken_up.epoch()
    assert len(steps) == 4 + 2  # the fourth was never made
    one, other = state_of(whole), state_of(taken_up)
    assert all(same(one[part], other[part]) for part in one if part != "reports")
    assert undated(whole.reports) == undated(taken_up.reports)


def test_a_pretrained_trunk_that_is_interrupted_is_scored_again(make):
    taken = {"epochs": 0, "rungs": (0,)}
    with pytest.raises(PreemptedError):
        make(should_stop=lambda: True, **taken).score_untrained()
    training = make(**taken)
    assert training.reports == []
    assert training.score_untrained().val[32].n == 15


@pytest.mark.parametrize("start", range(6))
def test_batches_from_the_middle_on_are_those_of_the_whole_and_no_others_are_cropped(
    tiny_images, start
):
    split, opened = tiny_images.split("train"), []

    class Watched(type(split)):  # type: ignore[misc]
        def __getitem__(self, index):
            opened.append(index)
            return super().__getitem__(index)

    def batches(images, **named: Any):
        given: dict[str, Any] = {"batch_size": 4, "augmentation": Augmentation(), "seed": (0, 1)}
        return list(train_batches(images, 32, preprocessing=UNIT, threads=2, **given, **named))

    wanted = batches(split)[start:]
    split.__class__ = Watched
    found = batches(split, start=start)
    assert len(found) == len(wanted) == 5 - start
    assert len(opened) == 4 * len(found)
    for one, other in zip(found, wanted, strict=True):
        assert all(
            np.array_equal(a, b)
            for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        )


def test_an_epoch_lost_to_a_kill_is_done_again_and_counted_twice(make, monkeypatch):
    whole = make("whole")
    broken = make("broken")
    for training in (whole, broken):
        training.epoch()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            broken.epoch()
    whole.epoch()
    taken_up = make("broken")
    assert taken_up.trained_epochs == 1
    taken_up.epoch()
    assert same(state_of(whole)["model"], state_of(taken_up)["model"])
    work = read_lines(taken_up.folder / "work.jsonl")
    assert [line["epoch"] for line in work] == [1, 2, 2]
    assert not list(taken_up.folder.glob(".*"))


def test_what_is_recorded_is_what_was_reported(make):
    training = make(rungs=(2,), val_transforms=(32, 48))
    store, key = training.store, training.spec.key
    assert recorded_reports(store, key) == []
    training.epoch()
    training.epoch()
    assert recorded_reports(store, key) == training.reports
    finalize_trunk(store, key, TrunkStatus.CUT)
    assert recorded_reports(store, key) == training.reports
    assert [r.epoch for r in training.reports] == [1, 2]


def test_val_is_scored_at_rungs_alone_and_at_every_test_resolution(make, tiny_images):
    training = make(rungs=(2,), val_transforms=(32, 48))
    first, second = training.epoch(), training.epoch()
    assert first.val == {}
    assert first.best_val is None
    images, wanted = tiny_images.split("val"), variants.preprocessing(variants.get("tiny"))
    for res in (32, 48):
        view = np.stack([whole(res)(images[i]) for i in range(15)])
        pixels = (torch.tensor(view) / 255 - torch.tensor(wanted.mean)) / torch.tensor(wanted.std)
        with torch.no_grad():
            logits = training.evaluated_model(pixels.permute(0, 3, 1, 2))
        assert second.val[res] == score(logits, torch.tensor(images.labels), "val")
    assert set(second.val) == {32, 48}
    assert second.best_val.hits1 == max(s.hits1 for s in second.val.values())


def test_the_moving_average_is_scored_and_not_the_model(make, monkeypatch):
    scored = []

    def spy(model, x):
        scored.append(model)
        return logits_of_batch(model, x)

    monkeypatch.setattr(validation, "logits_of_batch", spy)
    training = make(rungs=(1,))
    training.epoch()
    assert scored == [training.ema.module] * 2  # of 15 images in batches of 8
    assert training.model.training  # left as it was


def test_a_report_counts_what_was_trained(make):
    training = make()
    report = training.epoch()
    assert report.images == SEEN
    assert not report.diverged
    assert report.loss is not None and report.loss > 0
    assert (report.train_top1 * SEEN) % 1 == 0
    factor = lr_factor(STEPS - 1, steps=3 * STEPS, warmup=STEPS, schedule="cosine")
    assert report.lr == pytest.approx(HYPER.lr * factor)
    (line,) = read_lines(training.folder / "work.jsonl")
    assert (line["epoch"], line["at"], line["seconds"]) == (1, report.at, report.seconds)


def test_the_learning_rate_follows_its_course_over_all_epochs(make):
    training, rates = make(), []

    def note(optimizer, *_):
        rates.append({group["lr"] for group in optimizer.param_groups})

    training.optimizer.register_step_pre_hook(note)
    for _ in range(3):
        training.epoch()
    steps, warmup = 3 * STEPS, STEPS
    wanted = [1 / 3, 2 / 3]
    wanted += [(1 + math.cos(math.pi * k / (steps - warmup))) / 2 for k in range(steps - warmup)]
    assert all(len(of_groups) == 1 for of_groups in rates)
    found = [of_groups.pop() for of_groups in rates]
    assert found == pytest.approx([HYPER.lr * factor for factor in wanted])


def test_every_epoch_every_seed_and_every_repeat_draws_other_crops(make, monkeypatch):
    drawn: list[bytes] = []

    def spy(*given, **named):
        batches = list(train_batches(*given, **named))
        drawn.extend(batch.pixels.numpy().tobytes() for batch in batches)
        return iter(batches)

    monkeypatch.setattr(trainer, "train_batches", spy)
    for seed, repeat in ((0, 0), (1, 0), (0, 1), (0, 2)):
        training = make(seed=seed, repeat=repeat)
        training.epoch()
        training.epoch()
    assert len(set(drawn)) == len(drawn) == 8 * STEPS


def test_a_step_is_the_gradient_of_the_smoothed_loss_of_normalised_pixels(make, monkeypatch):
    rng = np.random.default_rng(0)
    batch = TrainBatch(
        torch.from_numpy(rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)),
        torch.tensor([0, 2, 1, 1, 0, 0, 2, 0]),
    )
    monkeypatch.setattr(trainer, "train_batches", lambda *_, **__: iter([batch]))
    training = make(dropout=False, optimizer="sgd", ema_decay=0.0, warmup_epochs=0.0)
    gradients: list[torch.Tensor] = []

    def keep(*_):
        gradients.append(training.model.classifier.weight.grad.clone())

    training.optimizer.register_step_pre_hook(keep)
    plain = make("plain", dropout=False).model.train()
    report = training.epoch()

    x = (batch.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    log_p = plain(x).log_softmax(1)
    target = torch.full((8, 3), 0.1 / 3)
    target[range(8), batch.labels] += 0.9
    loss = -(target * log_p).sum(1).mean()
    loss.backward()
    assert report.loss == pytest.approx(loss.item(), rel=1e-5)
    assert report.train_top1 == (log_p.argmax(1) == batch.labels).float().mean()
    (found,) = gradients
    assert found.abs().max() > 0.1
    torch.testing.assert_close(found, plain.classifier.weight.grad, rtol=0, atol=2e-3)


def test_the_average_decays_as_it_should_and_is_the_finished_trunk(make):
    training = make()
    training.epoch()
    average = {name: t.clone() for name, t in training.ema.module.state_dict().items()}

    def follow(*_):
        for name, tensor in training.model.state_dict().items():
            if tensor.is_floating_point():
                average[name] = 0.7 * average[name] + 0.3 * tensor
            else:
                average[name] = tensor.clone()

    training.optimizer.register_step_post_hook(follow)
    training.epoch()
    finalize_trunk(training.store, training.spec.key, TrunkStatus.FINISHED)
    found = read_trunk_weights(training.store, training.spec.key)
    for name, wanted in average.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)
    model = training.model.state_dict()
    assert not torch.allclose(found["conv_head.weight"], model["conv_head.weight"], atol=1e-6)


@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_the_finished_trunk_is_the_live_model(make, ema_decay):
    training = make(ema_decay=ema_decay)
    training.epoch()
    store, key, folder = training.store, training.spec.key, training.folder
    finalize_trunk(store, key, TrunkStatus.FINISHED)
    spec, found = read_trunk_spec(store, key), read_trunk_weights(store, key)
    assert spec == training.spec
    live = training.evaluated_model.state_dict()
    assert found.keys() == live.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in live.items())
    assert {p.name for p in folder.iterdir()} == {
        "spec.json", "result.json", "trunk.safetensors", "work.jsonl"
    }  # fmt: skip


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_diverging_training_says_so_and_does_not_raise(make, optimizer):
    wild = Hyper(lr=1e39, weight_decay=0.0, label_smoothing=0.0)
    training = make(rungs=(1, 2), hyper=wild, optimizer=optimizer)
    report = training.epoch()
    assert report.diverged
    assert report.loss is None
    assert report.val == {}
    assert recorded_reports(training.store, training.spec.key) == [report]
    finalize_trunk(training.store, training.spec.key, TrunkStatus.DIVERGED)
    assert recorded_reports(training.store, training.spec.key) == [report]


def test_weights_spoilt_by_the_last_step_are_a_divergence_too(make):
    training, steps = make(rungs=(1,)), []

    def spoil(*_):
        steps.append(1)
        if len(steps) == STEPS:
            training.model.classifier.bias.data[0] = math.nan

    training.optimizer.register_step_post_hook(spoil)
    report = training.epoch()
    assert report.loss is not None  # the losses were all from before
    assert report.diverged
    assert report.val == {}


def test_logits_on_val_that_are_not_finite_are_a_divergence_too(make, monkeypatch):
    def overflowing(_model, view, *_, **__):
        logits = torch.zeros(len(view), 3)
        logits[2] = math.inf
        return logits

    monkeypatch.setattr("trainables.training.trainer.shared_logits", overflowing)
    report = make(rungs=(1,)).epoch()
    assert report.loss is not None
    assert report.diverged
    assert report.val == {}


def test_a_rate_far_too_high_reports_what_it_is(make):
    wild = Hyper(lr=1e6, weight_decay=0.0, label_smoothing=0.0)
    training = make(rungs=(1, 2, 3), hyper=wild, optimizer="sgd")
    for _ in range(3):
        report = training.epoch()
        assert report.diverged == (report.loss is None)
        assert bool(report.val) != report.diverged
        assert report.loss is None or math.isfinite(report.loss)


def test_the_start_is_the_weights_with_a_classifier_of_zeros(make, tiny_weights):
    found = make().model.state_dict()
    wanted = load_file(tiny_weights / "tiny.safetensors")
    assert not found["classifier.weight"].any()
    assert all(
        torch.equal(found[name], tensor)
        for name, tensor in wanted.items()
        if not name.startswith("classifier")
    )


@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_a_start_from_a_probe_has_the_hits_of_the_probe(make, monkeypatch, ema_decay):
    """Nothing else moves: so val sees the untouched net with scikit-learn's optimum on top."""
    ridge = 0.1
    monkeypatch.setattr(linear_probe, "RIDGES", (ridge,))
    still: dict[str, Any] = {"freeze_batch_norm": True, "dropout": False, "ema_decay": ema_decay}
    hyper = replace(HYPER, lr=1e-12)
    training = make(start="probe", rungs=(1,), hyper=hyper, **still)
    untouched = make("untouched").model.eval()

    def features(pixels):
        with torch.no_grad():
            x = normalize_on_device(pixels, training.preprocessing, CPU)
            return backbone.features(untouched, x).double().numpy()

    train = features(torch.cat([*training.views.train_view(whole(RES)).batches(8)]))
    view = np.array(training.views.view("val", whole(RES)))
    mean = train.mean(axis=0)
    std = np.sqrt(((train - mean) ** 2).mean())
    probe = LogisticRegression(C=1 / (ridge * len(train)), tol=1e-8, max_iter=1000)
    probe.fit((train - mean) / std, training.images.split("train").labels)
    wanted = probe.predict_proba((features(torch.from_numpy(view)) - mean) / std)
    report = training.epoch()
    hits = wanted.argmax(axis=1) == training.images.split("val").labels
    assert report.val[RES].hits1 == hits.sum() > 0
    found = logits_of(
        training.evaluated_model, view, training.preprocessing, batch_size=8, device=CPU
    )
    np.testing.assert_allclose(found.softmax(dim=1).numpy(), wanted, atol=5e-3)


def test_trunks_that_start_from_the_same_probe_have_it_fitted_once(make, monkeypatch):
    asked: dict[str, Any] = {"start": "probe", "epochs": 1}
    fitted, fit = [], linear_probe.fit_probe

    def counted(*args: Any, **kwargs: Any):
        fitted.append(1)
        return fit(*args, **kwargs)

    def train_nothing(_, number, progress):
        nothing = StepResult(loss=torch.zeros(()), hits=torch.zeros((), dtype=torch.int64))
        progress.add(nothing, SEEN)

    monkeypatch.setattr("trainables.evaluation.kept_probe.fit_probe", counted)
    monkeypatch.setattr(TrunkTraining, "_train", train_nothing)

    def started(name="store", **other):
        """The trunk's classifier, in training and averaged, and the seconds of the fit."""
        training = make(name, **{**asked, **other})
        report = training.epoch()
        assert report.took_s == report.seconds + report.probe_s + report.probe_wait_s
        nets = (training.model, training.evaluated_model)
        return [backbone.classifier_of(net).state_dict() for net in nets], report.probe_s

    first, first_s = started()
    assert len(fitted) == 1 and first_s > 0
    for other in ({"hyper": replace(HYPER, lr=1e-3)}, {"seed": 1}, {"repeat": 1}, {"mixup": 0.2}):
        again, seconds = started(**other)
        assert same(first, again) and seconds == 0.0
    assert len(fitted) == 1
    apart, _ = started("another store")
    assert len(fitted) == 2 and same(first, apart)
    weighed, seconds = started(class_weights="balanced")
    assert len(fitted) == 3 and seconds > 0 and not same(first, weighed)
    drawn, seconds = started(sampling="balanced")  # it is fitted on every image alike
    assert len(fitted) == 3 and seconds == 0.0 and same(weighed, drawn)


def test_the_classifier_trains_alone_at_first_and_then_all(make):
    training = make(head_only_epochs=1)
    states = [copy.deepcopy(training.model.state_dict())]
    for _ in range(2):
        training.epoch()
        states.append(copy.deepcopy(training.model.state_dict()))
    before, first, second = states
    changed = [
        {name for name in one if not torch.equal(one[name], other[name])}
        for one, other in ((before, first), (first, second))
    ]
    assert changed[0] == {"classifier.weight", "classifier.bias"}
    assert changed[1] == set(before)  # batch norms' statistics too


def test_a_child_neither_starts_from_a_probe_nor_trains_its_classifier_alone(make):
    parent = make()
    for _ in range(3):
        parent.epoch()
    finalize_trunk(parent.store, parent.spec.key, TrunkStatus.FINISHED)
    asked: dict[str, Any] = {"parent": Parent(trunk=parent.spec.key, train_res=16)}
    plain, child = make(**asked), make(start="probe", head_only_epochs=1, **asked)
    for training in (plain, child):
        training.epoch()
    assert plain.spec.key != child.spec.key
    assert same(plain.model.state_dict(), child.model.state_dict())


def test_a_child_starts_from_the_averaged_weights_of_its_parent_classifier_and_all(make):
    parent = make(rungs=(3,))
    for _ in range(3):
        parent.epoch()
    served = {name: t.clone() for name, t in parent.evaluated_model.state_dict().items()}
    assert not same(served, parent.model.state_dict()) and served["classifier.weight"].any()
    finalize_trunk(parent.store, parent.spec.key, TrunkStatus.FINISHED)
    child = make(parent=Parent(trunk=parent.spec.key, train_res=16))
    assert same(served, child.model.state_dict()) and same(served, child.ema.module.state_dict())
    with pytest.raises(DamagedFileError, match="it is missing"):
        make(parent=Parent(trunk="0123456789abcdef", train_res=16))


def test_a_random_start_is_its_seeds(make, tiny_images, tmp_path):
    def start(seed, repeat=0):
        store = Store(tmp_path / f"random {seed} {repeat}")
        weights = find_weights(variants.get("tiny"), "none", store)
        spec = replace(make().spec, weights=weights, seed=seed, repeat=repeat)
        named: dict[str, Any] = {"cache": tmp_path, "threads": 1, "val_transforms": (), "rungs": ()}
        return TrunkTraining(spec, tiny_images, store, **named).model.state_dict()

    one, again = start(0), start(0)
    assert same(one, again)
    for other in (start(1), start(0, repeat=1)):
        assert not torch.equal(one["conv_head.weight"], other["conv_head.weight"])


@pytest.mark.parametrize("at", [0, 3, 5])
def test_after_a_step_that_runs_out_of_memory_steps_are_in_micro_batches_tried_larger_each_epoch(
    make, at
):
    calls: list[int] = []
    steps: list[int] = []

    def watched(training):
        def run_out(_module, inputs, _output):
            calls.append(len(inputs[0]))
            if len(steps) >= at and len(inputs[0]) > 3:
                raise torch.OutOfMemoryError("injected")

        training.model.classifier.register_forward_hook(run_out)
        training.optimizer.register_step_post_hook(lambda *_: steps.append(1))
        return training

    training = watched(make())
    while training.trained_epochs < 3:
        training.epoch()
        training = watched(make())  # taken up by another process
    assert len(steps) == 3 * STEPS
    first, *others = [STEPS - at % STEPS] + [STEPS] * (2 - at // STEPS)  # steps of epochs from then
    wanted = [8] * at + [8, 4] + [2] * 4 * first
    for steps_of_epoch in others:
        wanted += [4] + [2] * 4 * steps_of_epoch
    assert calls == wanted
    micro = [report.micro_batch for report in training.reports]
    assert micro == [2 if epoch > at // STEPS else None for epoch in range(1, 4)]


@pytest.mark.parametrize("frozen", [False, True])
def test_steps_are_whole_again_once_there_is_the_memory(make, frozen):
    """Norms that are frozen by the recipe do not stand still for want of memory."""
    training, calls = make(freeze_batch_norm=frozen), []

    def run_out(_module, inputs, _output):
        calls.append(len(inputs[0]))
        if training.trained_epochs == 0 and len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("injected")

    training.model.classifier.register_forward_hook(run_out)
    reports = [training.epoch() for _ in range(3)]
    assert [report.micro_batch for report in reports] == [2, 4, None]
    stood_still = [report.frozen_norms for report in reports]
    assert stood_still == ([False] * 3 if frozen else [True, True, False])
    assert calls == [8, 4] + [2] * 4 * STEPS + [4] * 2 * STEPS + [8] * STEPS


def test_a_report_tells_what_sped_its_steps_up(make, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    plain, training = make("plain").epoch(), make("sped up", speed_ups=("compile",)).epoch()
    assert (plain.speed_ups, training.speed_ups) == ("", "compile")
    assert training.loss == plain.loss


def test_no_gradients_are_there_while_val_is_scored(make, monkeypatch):
    training = make(rungs=(1,))
    held: list[torch.Tensor | None] = []

    def score_val(*_):
        held.extend(p.grad for p in training.model.parameters())
        return {}

    monkeypatch.setattr(training, "_validate", score_val)
    training.epoch()
    assert held and all(gradient is None for gradient in held)
