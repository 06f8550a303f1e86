"""The images as MLflow datasets: inputs of runs, and what metrics were measured on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.runs import SWEEP_KEY
from tests.factories import spec_with
from tests.sweeps.tracking.recorded_sweep import PLAN, TrackedSweep, started_runs

AT_MS = 1_700_000_000_000


def test_splits_are_logged_as_inputs_of_a_run_once(
    sweep: TrackedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = started_runs(sweep)
    datasets = ImageDatasets(runs)
    datasets.define(PLAN)
    assert datasets.splits == ["train", "val", "test"]
    for split in datasets.splits:
        datasets.log_input(SWEEP_KEY, split)
    with monkeypatch.context() as patch:
        patch.setattr(runs.client, "log_inputs", None)  # not called again
        datasets.log_input(SWEEP_KEY, "val")
    again = ImageDatasets(started_runs(sweep))  # another process
    again.define(PLAN)
    again.log_input(SWEEP_KEY, "val")

    images = {one.dataset.name: one for one in sweep.images_of(SWEEP_KEY)}
    assert len(sweep.images_of(SWEEP_KEY)) == 3
    assert set(images) == {f"built-in digits {split}" for split in ("train", "val", "test")}
    val = images["built-in digits val"]
    assert val.dataset.digest == "0123456789abcdef val"
    assert json.loads(str(val.dataset.profile)) == {"num_rows": 50}
    assert json.loads(val.dataset.source) == {"uri": "built-in digits"}
    assert [(tag.key, tag.value) for tag in val.tags] == [("mlflow.data.context", "val")]


def test_names_and_digests_fit_into_mlflow(sweep: TrackedSweep) -> None:
    plan = replace(
        PLAN, spec=spec_with(PLAN.spec, data=f"/images/{'x' * 255}"), images_digest="0" * 64
    )
    datasets = ImageDatasets(started_runs(sweep))
    datasets.define(plan)
    for split in datasets.splits:
        datasets.log_input(SWEEP_KEY, split)
    for one in sweep.images_of(SWEEP_KEY):
        assert len(one.dataset.digest) <= 36
        assert json.loads(one.dataset.source) == {"uri": f"/images/{'x' * 255}"}


def test_a_point_names_the_images_it_was_measured_on(sweep: TrackedSweep) -> None:
    datasets = ImageDatasets(started_runs(sweep))
    datasets.define(PLAN)
    point = datasets.point("val", "val/top1", 0.5, AT_MS, 3)
    assert (point.key, point.value, point.timestamp, point.step) == ("val/top1", 0.5, AT_MS, 3)
    assert point.dataset_name == "built-in digits val"
    assert point.dataset_digest == "0123456789abcdef val"
