"""Cells whose classifiers are fitted with class weights, and a refit of one."""

import json
from dataclasses import replace

import pytest

from tests.trainables.adapted import HEADS, TRAIN, VAL
from trainables.data.view_cache import ViewCache
from trainables.fixres import head_loss
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import (
    RefitCell,
    cell_spec_from_json,
    read_delta,
    recorded_results,
)
from trainables.models.parts.tensor_names import CLASSIFIER, EFFICIENTNET
from trainables.training.class_balance import class_weights

FITTED = ("fix", "fix_aug", "fix_affine", "fix_flip")  # the arms that fit a classifier


@pytest.fixture(scope="module")
def weighted(made):
    """The cell again, with balanced weights, and its results by arm."""
    cell = replace(made.cell, heads=replace(HEADS, class_weights=("balanced",)))
    return cell, {result.arm: result for result in adapt_cell(cell, made.store, made.views)}


def test_every_arm_that_fits_a_classifier_weighs_classes_and_no_other_changes(made, weighted):
    cell, results = weighted
    assert cell.key != made.cell.key
    assert {arm for arm, r in results.items() if r.head is not None} == set(FITTED)
    for arm, result in results.items():
        own, former = result.head, made.results[arm].head
        if arm in FITTED:
            assert (own.class_weights, former.class_weights) == ("balanced", "none")
            found, without = (read_delta(made.store, c.key, arm) for c in (cell, made.cell))
            weight, _ = EFFICIENTNET.of(CLASSIFIER)
            assert not found[weight].equal(without[weight])
        else:
            assert result.score == made.results[arm].score
            if ARMS[arm].changes:
                found, without = (read_delta(made.store, c.key, arm) for c in (cell, made.cell))
                assert all(tensor.equal(without[name]) for name, tensor in found.items())


def test_what_was_weighed_is_read_back(made, weighted):
    cell, results = weighted
    assert recorded_results(made.store, cell.key) == list(results.values())
    path = made.store.cell(cell.key) / "spec.json"
    assert cell_spec_from_json(json.loads(path.read_text())) == cell


def test_of_several_weights_val_picks_among_all_settings(made):
    both = replace(HEADS, class_weights=("none", "balanced"), patience=HEADS.epochs)
    cell = replace(made.cell, arms=("fix",), heads=both)
    (result,) = adapt_cell(cell, made.store, made.views)
    assert result.head_tried == 2 * len(HEADS.settings) * HEADS.epochs


def test_a_refit_weighs_classes_by_the_images_of_train_and_val(made, weighted, monkeypatch):
    cell, results = weighted
    asked = []

    def spy(labels, classes, kind):
        asked.append((len(labels), kind))
        return class_weights(labels, classes, kind)

    monkeypatch.setattr(head_loss, "class_weights", spy)
    merged = made.views.images.merged()
    head = replace(results["fix"].head, epochs=1)
    refit = RefitCell(
        **{**vars(cell), "arms": ("fix",)}, images=merged.digest, setting=head
    )  # fmt: skip
    adapt_cell(refit, made.store, ViewCache(images=merged, cache=made.views.cache, threads=2))
    assert asked == [(TRAIN + VAL, "balanced")]
