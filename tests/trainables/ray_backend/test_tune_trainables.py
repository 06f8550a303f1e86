"""Trials as Tune runs them: in this process, and preempted in a Ray of their own."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

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
    work_of,
)
from trainables.errors import UserError
from trainables.fixres.cell import ArmResult, CellSpec, recorded_results
from trainables.fixres.head_settings import HeadGrid
from trainables.fixres.held_out_score import Reading, held_out_test, recorded_on
from trainables.models import device
from trainables.ray_backend import tune_trainables
from trainables.ray_backend.tune_trainables import (
    CellWork,
    ReadingWork,
    StoreTrainable,
    trunk_result,
)
from trainables.storage.files import read_lines
from trainables.training.preemption import PreemptionGuard
from trainables.training.trunk import (
    EpochReport,
    TrunkStatus,
    finalize_trunk,
    recorded_reports,
)


@pytest.fixture(autouse=True)
def _no_signal_handler(monkeypatch):
    """Pytest's process is not the trial's."""
    monkeypatch.setattr(PreemptionGuard, "install", lambda _: None)
    monkeypatch.setattr(device, "_gpu_share", 1.0)  # nor are its GPUs


def begun(config, context):
    """A trial in this process; Tune, too, sets what ``with_parameters`` binds in a subclass."""

    class Bound(StoreTrainable):
        def setup(self, config):  # type: ignore[override]
            super().setup(config, context=context)

    return Bound(config)


def cell_of(trunk, arms):
    return CellSpec(
        trunk=trunk.spec.key,
        transform=VAL_TRANSFORMS[0],
        arms=arms,
        heads=HeadGrid(lr=(0.1,), label_smoothing=(0.0,), epochs=1, patience=1, batch_size=8),
        views=0,
        batch_size=8,
        seed=0,
    )


def reports_of(trial, steps):
    results = [trial.step() for _ in range(steps)]
    return [result["report"] for result in results], [result["done"] for result in results]


def test_a_trials_images_are_those_of_the_driver(trunk, tiny_images):
    assert trunk.context.open_images() == tiny_images
    refit = replace(trunk.context, refit=True)
    assert refit.open_images() == tiny_images.merged()


def test_other_images_on_a_node_are_refused(trunk, tiny_images, monkeypatch):
    monkeypatch.setattr(tune_trainables, "prepare", lambda *_, **__: tiny_images)
    with pytest.raises(UserError, match="other images"):
        replace(trunk.context, images_digest="another").open_images()


def test_a_process_whose_gpu_lacks_what_was_promised_takes_no_work(trunk, monkeypatch):
    asked = []

    def refuse(gb):
        asked.append(gb)
        raise UserError("less than the `gpu_memory_gb` 24")

    monkeypatch.setattr(tune_trainables, "check_gpu_memory", refuse)
    with pytest.raises(UserError, match="less than"):
        begun({"work": work_of(trunk.spec)}, replace(trunk.context, gpu_memory_gb=24.0))
    begun({"work": work_of(trunk.spec), "workers": 2}, trunk.context)  # it only waits for them
    assert asked == [24.0]


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({}, 1.0),
        ({"resources": {"CPU": 2, "GPU": 0.25}}, 0.25),
        ({"resources": {"CPU": 2, "GPU": 0}}, 0),
        ({"resources": {"node:__internal_head__": 0.1}, "workers": 2}, 0),
    ],
    ids=["bare", "a quarter", "none", "workers"],
)
def test_a_process_uses_what_it_has_of_a_gpu_and_none_where_it_waits(
    trunk, monkeypatch, config, share
):
    bounds: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(tune_trainables, "use_speed_ups", lambda _: None)
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "get_device_properties", lambda: Mock(total_memory=16e9))
        patched.setattr(torch.cuda, "set_per_process_memory_fraction", bounds.append)
        begun({"work": work_of(trunk.spec), **config}, trunk.context)
        assert device.pick_device().type == ("cuda" if share else "cpu")
    assert len(bounds) == bool(share) and device._gpu_share == share


def test_a_step_is_an_epoch_and_another_process_reports_it_without_training(trunk):
    config = {"work": work_of(trunk.spec)}
    first, done = reports_of(begun(config, trunk.context), EPOCHS)
    assert [report.epoch for report in first] == [1, 2]
    assert done == [False, True]
    assert [bool(report.val) for report in first] == [False, True]
    again, done = reports_of(begun(config, trunk.context), EPOCHS)
    assert again == first and done == [False, True]
    (last,), done = reports_of(
        begun({"work": replace(work_of(trunk.spec), reported=1)}, trunk.context), 1
    )
    assert (last, done) == (first[-1], [True]), "what was reported is not reported again"
    assert len(read_lines(trunk.folder / "work.jsonl")) == EPOCHS


def test_a_trial_whose_time_is_over_stops_at_a_step_and_another_goes_on(
    trunk, tiny_images, tmp_path
):
    alone = train_alone(trunk, tiny_images, tmp_path)
    short = replace(work_of(trunk.spec), stop_after_s=0.0)
    for _ in range(3):  # each takes a step
        (report,), done = reports_of(begun({"work": short}, trunk.context), 1)
        assert report is None and done == [True]
    assert recorded_reports(trunk.store, trunk.spec.key) == []
    trial = begun({"work": work_of(trunk.spec)}, trunk.context)
    reports, done = reports_of(trial, EPOCHS)
    assert [report.epoch for report in reports] == [1, 2] and done == [False, True]
    assert same_weights(trunk.folder, alone.folder)


def test_a_trunk_that_is_not_trained_is_scored_in_one_step(trunk):
    spec = replace(trunk.spec, recipe=replace(trunk.spec.recipe, epochs=0))
    trial = begun({"work": work_of(spec)}, trunk.context)
    (report,), done = reports_of(trial, 1)
    assert (report.epoch, set(report.val), done) == (0, {32}, [True])


def test_a_process_takes_the_next_trunk_afresh(trunk):
    trial = begun({"work": work_of(trunk.spec)}, trunk.context)
    first, _ = reports_of(trial, 1)
    other = replace(trunk.spec, seed=1)
    assert trial.reset_config({"work": None})
    trial.begin(work_of(other))
    second, _ = reports_of(trial, 1)
    assert [report.epoch for report in (*first, *second)] == [1, 1]
    assert second[0].loss != first[0].loss
    assert recorded_reports(trunk.store, other.key) == second


def test_a_cell_is_one_step_and_is_worked_out_once(trunk, tiny_images, tmp_path, monkeypatch):
    train_alone(trunk, tiny_images, tmp_path)
    context = replace(trunk.context, store=tmp_path / "alone")
    store = trunk.store.__class__(context.store)
    finalize_trunk(store, trunk.spec.key, TrunkStatus.FINISHED)
    cell = cell_of(trunk, ("none",))
    config = {"work": CellWork(cell=cell)}
    result = begun(config, context).step()
    assert result["done"]
    (row,) = result["results"]
    (recorded,) = recorded_results(store, cell.key) or []
    assert isinstance(recorded, ArmResult)
    assert (row.arm, row.score) == ("none", recorded.score)

    monkeypatch.setattr(tune_trainables, "adapt_cell", None)
    assert begun(config, context).step() == result


def test_a_process_that_trained_takes_a_cell_and_then_a_reading(trunk, tiny_images):
    """Whatever comes next; a reading that was made is not made again."""
    trial = begun({"work": work_of(trunk.spec)}, trunk.context)
    reports_of(trial, EPOCHS)
    finalize_trunk(trunk.store, trunk.spec.key, TrunkStatus.FINISHED)
    cell = cell_of(trunk, ("none", "bn"))
    trial.reset_config({"work": CellWork(cell=cell)})
    assert [row.arm for row in trial.step()["results"]] == ["none", "bn"]
    reading = Reading(cell=cell, arms=("bn", "none"), name="test")
    for _ in range(2):
        trial.reset_config({"work": ReadingWork(reading=reading)})
        assert trial.step() == {"done": True}
    test = held_out_test(tiny_images)
    found = recorded_on(test, trunk.store, cell, reading.arms)
    assert [r.score.n for r in found.values()] == [len(test.images)] * 2
    assert len(read_lines(trunk.store.readings)) == 2


def test_a_trial_without_work_ends_at_once(trunk):
    trial = begun({"work": None}, trunk.context)
    assert trial.step() == {"done": True}
    trial.cleanup()
    assert not trunk.folder.exists()


@pytest.mark.parametrize(
    ("epoch", "diverged", "done"), [(1, False, False), (1, True, True), (2, False, True)]
)
def test_a_trunk_is_done_after_its_last_epoch_or_when_it_diverges(epoch, diverged, done):
    report = EpochReport(
        epoch=epoch, loss=None, train_top1=0.5, images=8, lr=0.1, seconds=1.0, at=0,
        diverged=diverged,
    )  # fmt: skip
    result = trunk_result(report, 2)
    assert result == {"report": report, "done": done}


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
