"""Trials as Tune runs them: in this process, and preempted in a Ray of their own."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.trainables.ray_backend.trunk_trials import (
    EPOCHS,
    STEPS,
    VAL_TRANSFORMS,
    is_saved,
    meanwhile,
    preempt,
    run,
    same_weights,
    train_alone,
)
from trainables.errors import UserError
from trainables.fixres.cell import ArmResult, CellSpec, recorded_results
from trainables.fixres.head_settings import HeadGrid
from trainables.ray_backend import tune_trainables
from trainables.ray_backend.tune_trainables import CellTrainable, TrunkTrainable, trunk_result
from trainables.storage.files import read_lines
from trainables.training.preemption import PreemptionGuard
from trainables.training.trunk import (
    EpochReport,
    TrunkStatus,
    epoch_report_from_json,
    finalize_trunk,
    recorded_reports,
)


@pytest.fixture(autouse=True)
def _no_signal_handler(monkeypatch):
    """Pytest's process is not the trial's."""
    monkeypatch.setattr(PreemptionGuard, "install", lambda _: None)


def begun(kind, config, context):
    """A trial in this process; Tune, too, sets what ``with_parameters`` binds in a subclass."""

    class Bound(kind):  # type: ignore[misc,valid-type]
        def setup(self, config):
            super().setup(config, context=context)

    return Bound(config)


def reports_of(trial, steps):
    results = [trial.step() for _ in range(steps)]
    reports = [epoch_report_from_json(json.loads(result["report"])) for result in results]
    return reports, [result["done"] for result in results]


def test_a_trials_images_are_those_of_the_driver(trunk, tiny_images):
    assert trunk.context.open_images() == tiny_images
    refit = replace(trunk.context, refit=True)
    assert refit.open_images() == tiny_images.merged()


def test_other_images_on_a_node_are_refused(trunk, tiny_images, monkeypatch):
    monkeypatch.setattr(tune_trainables, "prepare", lambda *_, **__: tiny_images)
    with pytest.raises(UserError, match="other images"):
        replace(trunk.context, images_digest="another").open_images()


def test_a_step_is_an_epoch_and_another_process_reports_it_without_training(trunk):
    config = {"trunk": trunk.spec, "val_transforms": VAL_TRANSFORMS}
    first, done = reports_of(begun(TrunkTrainable, config, trunk.context), EPOCHS)
    assert [report.epoch for report in first] == [1, 2]
    assert done == [False, True]
    assert [bool(report.val) for report in first] == [False, True]
    again, done = reports_of(begun(TrunkTrainable, config, trunk.context), EPOCHS)
    assert again == first and done == [False, True]
    assert len(read_lines(trunk.folder / "work.jsonl")) == EPOCHS


def test_a_trunk_that_is_not_trained_is_scored_in_one_step(trunk):
    spec = replace(trunk.spec, recipe=replace(trunk.spec.recipe, epochs=0))
    config = {"trunk": spec, "val_transforms": VAL_TRANSFORMS}
    trial = begun(TrunkTrainable, config, replace(trunk.context, rungs=(0,)))
    (report,), done = reports_of(trial, 1)
    assert (report.epoch, set(report.val), done) == (0, {32}, [True])


def test_a_process_takes_the_next_trunk_afresh(trunk):
    config: dict[str, Any] = {"trunk": trunk.spec, "val_transforms": ()}
    trial = begun(TrunkTrainable, config, trunk.context)
    first, _ = reports_of(trial, 1)
    other = replace(trunk.spec, seed=1)
    assert trial.reset_config({**config, "trunk": other})
    second, _ = reports_of(trial, 1)
    assert [report.epoch for report in (*first, *second)] == [1, 1]
    assert second[0].loss != first[0].loss
    assert recorded_reports(trunk.store, other.key) == second


def test_a_cell_is_one_step_and_is_worked_out_once(trunk, tiny_images, tmp_path, monkeypatch):
    train_alone(trunk, tiny_images, tmp_path)
    context = replace(trunk.context, store=tmp_path / "alone")
    store = trunk.store.__class__(context.store)
    finalize_trunk(store, trunk.spec.key, TrunkStatus.FINISHED)
    cell = CellSpec(
        trunk=trunk.spec.key,
        transform=VAL_TRANSFORMS[0],
        arms=("none",),
        heads=HeadGrid(lr=(0.1,), label_smoothing=(0.0,), epochs=1, patience=1, batch_size=8),
        views=0,
        batch_size=8,
        seed=0,
    )
    result = begun(CellTrainable, {"cell": cell}, context).step()
    assert result["done"]
    (row,) = json.loads(result["results"])
    (recorded,) = recorded_results(store, cell.key) or []
    assert isinstance(recorded, ArmResult)
    assert (row["arm"], row["score"]["hits1"]) == ("none", recorded.score.hits1)

    monkeypatch.setattr(tune_trainables, "adapt_cell", None)
    assert begun(CellTrainable, {"cell": cell}, context).step() == result


@pytest.mark.parametrize(
    ("epoch", "diverged", "done"), [(1, False, False), (1, True, True), (2, False, True)]
)
def test_a_trunk_is_done_after_its_last_epoch_or_when_it_diverges(epoch, diverged, done):
    report = EpochReport(
        epoch=epoch, loss=None, train_top1=0.5, images=8, lr=0.1, seconds=1.0, at=0,
        diverged=diverged,
    )  # fmt: skip
    result = trunk_result(report, 2)
    assert result["done"] is done
    assert epoch_report_from_json(json.loads(result["report"])) == report


@pytest.mark.slow
def test_a_preempted_trial_resumes_within_the_epoch_elsewhere(ray, trunk, tiny_images, tmp_path):
    alone = train_alone(trunk, tiny_images, tmp_path)
    left = []
    with meanwhile(trunk, lambda: left.append(preempt("Trainable.train", trunk))):
        epochs, failures = run(trunk, tmp_path)
    assert [is_saved(state) for state in left] == [True]
    assert failures == 1
    assert sorted(set(epochs)) == [1, 2]
    assert same_weights(trunk.folder, alone.folder)
    work = [line["steps"] for line in read_lines(trunk.folder / "work.jsonl")]
    assert work == [STEPS, STEPS]  # none was made twice
    reports = recorded_reports(trunk.store, trunk.spec.key)
    assert [r.val for r in reports] == [r.val for r in alone.reports]
