"""The run of a trunk: metrics by epoch, how it ended, and its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.runs import RunStore, trunk_key
from sweeps.tracking.trunk_run import TrunkRunWriter
from tests.factories import spec_with
from tests.sweeps.tracking.recorded_sweep import PLAN, TrackedSweep, run_store, started_runs
from trainables.training.trunk import TrunkStatus

AT_MS = 1_700_000_000_000


def writer_of(sweep: TrackedSweep, runs: RunStore) -> TrunkRunWriter:
    datasets = ImageDatasets(runs)
    datasets.define(PLAN)
    return TrunkRunWriter(runs, datasets, LoggedModels(runs), sweep.recorded.store)


def test_a_trunk_has_its_point_and_hyperparameters_as_params(sweep: TrackedSweep) -> None:
    writer = writer_of(sweep, started_runs(sweep))
    trunk = sweep.recorded.ended_trunks[0].trunk
    assert not writer.begin(trunk, AT_MS)
    writer.log_images(trunk, AT_MS)
    run = sweep.run(trunk_key(trunk.key))
    assert run.info.run_name == f"b0-tr{trunk.train_res}-{trunk.key[:6]}"
    assert (run.info.status, run.info.start_time) == ("RUNNING", AT_MS)
    assert run.data.params == {
        "variant": "b0",
        "train_res": str(trunk.train_res),
        "with_lr": str(trunk.hyper.lr),
        "with_weight_decay": str(trunk.hyper.weight_decay),
        "with_label_smoothing": str(trunk.hyper.label_smoothing),
    }
    assert {"role": "trunk", "epochs": "2"}.items() <= run.data.tags.items()
    images = sweep.images_of(trunk_key(trunk.key))
    assert [one.dataset.name for one in images] == ["built-in digits train"]


def test_what_else_the_search_varies_is_a_param_too(sweep: TrackedSweep) -> None:
    writer = writer_of(sweep, started_runs(sweep))
    space: dict[str, Any] = {
        "optimizer": {"choices": ["sgd", "adamw"]}, "crop_scale": {"choices": [[0.1, 1], [0.2, 1]]},
        "hflip": 0.5,
    }  # fmt: skip
    writer.define(replace(PLAN, spec=spec_with(PLAN.spec, space=space)))
    trunk = sweep.recorded.ended_trunks[0].trunk
    assert not writer.begin(trunk, AT_MS)
    params = sweep.run(trunk_key(trunk.key)).data.params
    crop = list(trunk.recipe.augmentation.crop_scale)
    assert params["with_optimizer"] == trunk.recipe.optimizer
    assert params["with_crop_scale"] == str(crop) and "with_hflip" not in params


def test_epochs_are_deferred_and_written_again_at_the_end(sweep: TrackedSweep) -> None:
    runs = started_runs(sweep)
    writer = writer_of(sweep, runs)
    ended = next(e for e in sweep.recorded.ended_trunks if len(e.reports) == 2)
    writer.defer_epoch(ended.trunk, ended.reports[0], AT_MS)
    assert not sweep.points()
    key = trunk_key(ended.trunk.key)
    runs.log_metrics(key)
    assert [step for step, _ in sweep.points()[key, "lr"]] == [1]
    writer.end(ended.trunk, TrunkStatus.FINISHED, ended.reports, AT_MS + 1000)
    points = sweep.points()
    assert [step for step, _ in points[key, "lr"]] == [1, 2]
    assert [v for _, v in points[key, "train/loss"]] == [1.0, 0.5]
    run = sweep.run(key)
    assert (run.info.status, run.info.end_time) == ("FINISHED", AT_MS + 1000)
    assert run.data.tags["ended"] == "finished" and run.data.tags["epochs_trained"] == "2"


@pytest.mark.parametrize(
    ("status", "run_status"),
    [
        (TrunkStatus.FINISHED, "FINISHED"),
        (TrunkStatus.CUT, "FINISHED"),
        (TrunkStatus.DIVERGED, "FINISHED"),
        (TrunkStatus.FAILED, "FAILED"),
    ],
)
def test_only_a_failed_trunk_is_a_failed_run(
    sweep: TrackedSweep, status: TrunkStatus, run_status: str
) -> None:
    writer = writer_of(sweep, started_runs(sweep))
    trunk = sweep.recorded.ended_trunks[0].trunk
    writer.end(trunk, status, (), AT_MS)
    run = sweep.run(trunk_key(trunk.key))
    assert (run.info.status, run.data.tags["ended"]) == (run_status, status.value)


def test_a_loss_that_is_not_finite_is_left_out(sweep: TrackedSweep) -> None:
    writer = writer_of(sweep, started_runs(sweep))
    ended = sweep.recorded.ended_trunks[0]
    report = replace(ended.reports[0], loss=None, val={}, diverged=True)
    writer.defer_epoch(ended.trunk, report, AT_MS)
    writer.end(ended.trunk, TrunkStatus.DIVERGED, (report,), AT_MS)
    run = sweep.run(trunk_key(ended.trunk.key))
    assert run.data.metrics.keys() == {"lr", "seconds", "train/top1"}


def test_a_run_that_has_finished_is_left_as_it_is(sweep: TrackedSweep) -> None:
    ended = sweep.recorded.ended_trunks[0]
    writer_of(sweep, started_runs(sweep)).end(ended.trunk, TrunkStatus.CUT, ended.reports, AT_MS)
    before = sweep.run(trunk_key(ended.trunk.key))
    again = writer_of(sweep, run_store(sweep))
    assert again.begin(ended.trunk, AT_MS + 1)
    again.defer_epoch(ended.trunk, ended.reports[0], AT_MS + 1)
    again.end(ended.trunk, TrunkStatus.FAILED, (), AT_MS + 1)
    after = sweep.run(trunk_key(ended.trunk.key))
    assert after.to_dictionary() == before.to_dictionary()


def test_the_weights_are_a_logged_model_with_the_latest_val_accuracies(
    sweep: TrackedSweep,
) -> None:
    writer = writer_of(sweep, started_runs(sweep))
    cell = sweep.recorded.ended_cells[0]
    ended = next(e for e in sweep.recorded.ended_trunks if e.trunk.key == cell.cell.trunk.key)
    writer.end(ended.trunk, ended.status, ended.reports, AT_MS)
    for _ in range(2):
        writer.log_model(ended.trunk)
    (model,) = sweep.models().values()
    assert model.name == f"trunk-b0-tr{ended.trunk.train_res}" and model.model_type == "trunk"
    assert model.params == {"variant": "b0", "train_res": str(ended.trunk.train_res)}
    last = [report for report in ended.reports if report.val][-1]
    assert {m.key: m.value for m in model.metrics or ()} == {
        f"val/top1_at_{res}": pytest.approx(score.top1) for res, score in last.val.items()
    }
    assert {m.dataset_name for m in model.metrics or ()} == {"built-in digits val"}
    assert sweep.files_of(model) == ["trunk.safetensors"]
