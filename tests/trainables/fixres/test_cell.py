"""A cell's keys, its results to and from the store, and its trunk's net."""

import json
from dataclasses import replace

import pytest
import torch

from tests.trainables.adapted import (
    CLASSES,
    HEADS,
    WHOLE,
    net_with,
    pixels_of,
)
from trainables.evaluation.metrics import Score
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import (
    PREDICTIONS,
    ArmResult,
    arm_result_from_json,
    cell_spec_from_json,
    delta_path,
    judged_classes,
    load_model,
    read_hits,
    recorded_hits,
    recorded_results,
    write_predictions,
)
from trainables.fixres.head_settings import HeadSetting
from trainables.storage.artifact_store import Store
from trainables.storage.hashing import canonical_json
from trainables.training.trunk import read_trunk_spec, read_trunk_weights


@pytest.mark.parametrize(
    "change",
    [
        {"transform": replace(WHOLE, test_res=96)},
        {"transform": replace(WHOLE, crop_pct=0.9)},
        {"transform": replace(WHOLE, interpolation="bilinear")},
        {"arms": ("fix",)},
        {"views": 3},
        {"seed": 1},
        {"none_in_transform": True},
        {"trunk": "other"},
        {"heads": replace(HEADS, lr=(1.0,))},
    ],
)
def test_every_part_of_a_cell_is_in_its_key(made, change):
    assert replace(made.cell, **change).key != made.cell.key


def test_what_is_recorded_is_what_was_found(made):
    def untimed(results):  # Another test adapts the cell again.
        return [replace(result, seconds=0) for result in results]

    recorded = recorded_results(made.store, made.cell.key)
    assert untimed(recorded) == untimed(made.results.values())
    assert recorded_results(made.store, "another") is None


def test_a_loaded_model_is_ready_to_evaluate(made):
    spec = read_trunk_spec(made.store, made.cell.trunk)
    state = read_trunk_weights(made.store, made.cell.trunk)
    model = load_model(spec, state, CLASSES)
    x, _ = pixels_of(made.views.images, "val")
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(x), net_with(state)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "head",
    [None, HeadSetting(optimizer="sgd", lr=0.1, label_smoothing=0.0, weight_decay=1e-4, epochs=3)],
)
def test_a_result_comes_back_from_its_json(head):
    score_ = Score(split="val", n=9, hits1=4, hits5=9)
    result = ArmResult(arm="fix", score=score_, seconds=1.5, head=head, head_tried=12)
    assert arm_result_from_json(json.loads(canonical_json(result))) == result


def test_a_cells_spec_comes_back_from_its_json(made):
    path = made.store.cell(made.cell.key) / "spec.json"
    assert cell_spec_from_json(json.loads(path.read_text())) == made.cell


def test_hits_are_read_from_predictions(tmp_path):
    labels = torch.tensor([0, 1, 2, 1])
    predicted = {"none": torch.tensor([0, 2, 2, 1]), "fix": torch.tensor([1, 1, 2, 1])}
    write_predictions(tmp_path / PREDICTIONS, labels, predicted)
    assert read_hits(tmp_path / PREDICTIONS, "none").tolist() == [True, False, True, True]
    assert read_hits(tmp_path / PREDICTIONS, "fix").tolist() == [False, True, True, True]


@pytest.mark.parametrize("arm", ARMS)
def test_recorded_hits_are_those_that_were_scored(made, arm):
    hits = recorded_hits(made.store, made.cell.key, arm)
    result = made.results[arm]
    assert hits.dtype == bool
    if result.crossfit is not None:
        assert hits.mean() == result.crossfit["top1"]
        hits = read_hits(made.store.cell(made.cell.key) / PREDICTIONS, arm)
    assert hits.sum() == result.score.hits1
    labels = made.views.images.split("val").labels
    assert hits.tolist() == (made.logits[arm].argmax(1).numpy() == labels).tolist()


def test_cross_fitted_hits_count_where_there_are_any(tmp_path):
    store, labels = Store(tmp_path), torch.tensor([0, 1, 2, 1])
    predicted = {"bn": torch.tensor([0, 2, 2, 1]), "fix": labels}
    path = store.cell("c1") / PREDICTIONS
    write_predictions(path, labels, predicted)  # as before there were any
    assert recorded_hits(store, "c1", "fix").tolist() == [True] * 4
    crossed = torch.tensor([0, 2, 2, 0])
    write_predictions(path, labels, predicted, {"fix": crossed})
    assert recorded_hits(store, "c1", "fix").tolist() == [True, False, True, False]
    assert judged_classes(store, "c1", "fix")[1].tolist() == crossed.tolist()
    assert recorded_hits(store, "c1", "bn").tolist() == [True, False, True, True]
    assert read_hits(path, "fix").tolist() == [True] * 4


def test_a_result_kept_before_cross_fitting_is_read(made):
    kept = made.results["fix"]
    value = json.loads(canonical_json(kept))
    del value["crossfit"]
    assert arm_result_from_json(value) == replace(kept, crossfit=None)


def test_what_an_arm_changed_lies_beside_its_cell(made):
    for arm in ARMS:
        assert delta_path(made.store, made.cell.key, arm).exists() == bool(ARMS[arm].changes)
