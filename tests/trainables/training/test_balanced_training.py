"""Trunks of uneven classes: drawn alike, or weighed in the loss."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from trainables.data.decode import prepare
from trainables.data.loader import train_batches
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.storage.hashing import content_hash, to_jsonable
from trainables.training import trainer
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import STAGE, TrunkSpec, trunk_spec_from_json

TRAIN = {"often": 13, "once": 1, "seldom": 3}  # images by class; "zero" is a fourth, of none


@pytest.fixture(scope="module")
def uneven_images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    for name, count in TRAIN.items():
        for split, n in {"train": count, "val": 1, "test": 1}.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    images = prepare(folder, tmp_path_factory.mktemp("decoded"), ReadOptions())
    assert images.classes == tuple(TRAIN)
    return replace(images, classes=(*TRAIN, "zero"))  # as tables may name classes without images


@pytest.fixture
def make(uneven_images, tiny_weights, tiny_known, tmp_path):
    def training(name="store", label_smoothing=0.1, batch_size=17, **recipe: Any):
        store = Store(tmp_path / name)
        spec = TrunkSpec(
            variant="tiny",
            train_res=32,
            weights=find_weights(variants.get("tiny"), str(tiny_weights), store),
            images=uneven_images.digest,
            recipe=Recipe(epochs=2, batch_size=batch_size, dropout=False, **recipe),
            hyper=Hyper(lr=1e-3, weight_decay=0.05, label_smoothing=label_smoothing),
            seed=0,
        )
        return TrunkTraining(
            spec, uneven_images, store, cache=tmp_path / "cache", threads=2, val_transforms=(),
            rungs=(),
        )  # fmt: skip

    return training


@pytest.fixture
def epochs(monkeypatch):
    """The batches of the epochs that are trained."""
    found = []

    def spy(*given, **named):
        batches = list(train_batches(*given, **named))
        found.append(batches)
        return iter(batches)

    monkeypatch.setattr(trainer, "train_batches", spy)
    return found


def labels_of(epoch):
    return Counter(np.concatenate([batch.labels for batch in epoch]).tolist())


def test_balanced_epochs_draw_classes_alike_and_no_image_of_a_class_without_any(make, epochs):
    counts = dict(enumerate(TRAIN.values()))
    make("uniform").epoch()
    assert labels_of(epochs.pop()) == counts
    training = make("balanced", sampling="balanced")
    assert [training.epoch().images, training.epoch().images] == [17, 17]
    for found in map(labels_of, epochs):
        assert sorted(found) == sorted(counts) and sorted(found.values()) == [5, 6, 6]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_with_the_class_weights_of_scikit_learn(
    make, epochs, uneven_images, label_smoothing
):
    training = make(label_smoothing=label_smoothing, class_weights="balanced")
    logits: list[torch.Tensor] = []
    training.model.register_forward_hook(lambda _m, _x, out: logits.append(out.detach()))
    report = training.epoch()
    labels = uneven_images.split("train").labels
    weights = np.ones(4)
    present = np.unique(labels)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    torchs = torch.nn.CrossEntropyLoss(
        torch.tensor(weights, dtype=torch.float32), label_smoothing=label_smoothing
    )
    ((batch,),) = epochs
    assert report.loss == pytest.approx(torchs(torch.cat(logits), batch.labels).item(), rel=1e-5)


def test_classes_that_would_be_balanced_twice_are_refused(make):
    with pytest.raises(UserError, match=r"`sampling` balanced and `class_weights` sqrt"):
        make(sampling="balanced", class_weights="sqrt")


def test_what_does_not_balance_keeps_the_key_of_before_and_what_does_has_another(make):
    """Of a recipe that was stored before these fields were there, as its JSON shows."""
    spec = make().spec
    assert (spec.recipe.sampling, spec.recipe.class_weights) == ("uniform", "none")
    former = to_jsonable(spec)
    first = ("epochs", "batch_size", "optimizer", "schedule", "warmup_epochs", "ema_decay")
    names = (*first, "dropout", "augmentation")
    former["recipe"] = {name: former["recipe"][name] for name in names}
    del former["repeat"], former["parent"]
    former["weights"] = {k: v for k, v in former["weights"].items() if k != "keep_classifier"}
    assert spec.key == content_hash(STAGE, former)
    assert trunk_spec_from_json(former) == spec
    others = [make(sampling="balanced").spec, make(class_weights="balanced").spec]
    assert len({spec.key, *(other.key for other in others)}) == 3
    for other in others:
        assert trunk_spec_from_json(to_jsonable(other)) == other
