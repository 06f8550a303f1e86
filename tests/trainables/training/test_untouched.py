"""An untouched net is a trunk with the tensors of its weights, and a classifier of zeros."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from tests.trainables.adapted import CLASSES, watched
from trainables.models.parts.tensor_names import CLASSIFIER, EFFICIENTNET
from trainables.models.weights import stored_state
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import read_trunk_spec, read_trunk_weights, recorded_reports
from trainables.training.untouched import write_untouched


def test_a_classifier_is_fitted_from_zero_in_one_pass_over_train_and_val(
    made: SimpleNamespace,
) -> None:
    trained = read_trunk_spec(made.store, made.cell.trunk)
    spec = replace(
        trained,
        recipe=Recipe(epochs=0, batch_size=1),
        hyper=Hyper(lr=0.0, weight_decay=0.0, label_smoothing=0.0),
    )
    write_untouched(spec, CLASSES, made.store)
    assert read_trunk_spec(made.store, spec.key) == spec
    assert recorded_reports(made.store, spec.key) == []
    state, given = read_trunk_weights(made.store, spec.key), stored_state(spec.weights, made.store)
    assert given is not None
    assert all(
        torch.equal(state[k], given[k]) for k in given if k not in EFFICIENTNET.of(CLASSIFIER)
    )
    assert all(not state[name].any() for name in EFFICIENTNET.of(CLASSIFIER))

    cell = replace(made.cell, trunk=spec.key, arms=("fix",))
    (result,), logits, seen = watched(cell, made.store, made.views)
    splits = [made.views.images.split(s) for s in ("train", "val")]
    assert sum(seen) == sum(map(len, splits))
    assert result.head is not None and result.head.epochs > 0
    assert logits["fix"].std() > 0 and result.score.hits1 >= len(splits[1]) / CLASSES


def test_what_the_store_holds_is_not_written_again(made: SimpleNamespace) -> None:
    spec = read_trunk_spec(made.store, made.cell.trunk)
    spec = replace(spec, recipe=Recipe(epochs=0, batch_size=1), seed=9)
    write_untouched(spec, CLASSES, made.store)
    path: Path = made.store.trunk(spec.key) / "trunk.safetensors"
    before = path.stat().st_mtime_ns
    write_untouched(spec, CLASSES, made.store)
    assert path.stat().st_mtime_ns == before
