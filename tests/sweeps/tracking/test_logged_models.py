"""Logged models: each is there once, whole, and gone with its files once it is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric

from sweeps.tracking.logged_models import DROPPED, TAG, LoggedModels, find_model
from sweeps.tracking.runs import NoRunError, RunStore, cell_key, trunk_key
from tests.sweeps.tracking.recorded_sweep import TrackedSweep, run_store, started_runs

AT_MS = 1_700_000_000_000
TRUNK, CELL = trunk_key("t"), cell_key("c")
CELL_NAME = "cell-timm:resnet50.a1-c0.875"
METRIC = Metric("val/top1", 0.5, AT_MS, 2, dataset_name="digits val", dataset_digest="0 val")


@pytest.fixture
def runs(sweep: TrackedSweep) -> RunStore:
    """Of a trunk and a cell made from it."""
    runs = started_runs(sweep)
    for key in (TRUNK, CELL):
        runs.ensure(key, key, {}, {"role": key.partition(" ")[0]}, AT_MS)
    return runs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"weights")
    return path


def log_both(runs: RunStore, file: Path) -> None:
    models = LoggedModels(runs)
    common: dict[str, Any] = {"files": [file], "metrics": [METRIC], "step": 2}
    models.log(TRUNK, "a trunk", params={"train_res": 64}, **common)
    models.log(
        CELL, "cell-timm:resnet50.a1-c0.875", params={"test_res": 96}, source_key=TRUNK, **common
    )


def check_both(sweep: TrackedSweep) -> None:
    models = sweep.models()
    assert models.keys() == {TRUNK, CELL}
    for key, model in models.items():
        assert model.status.name == "READY"
        assert model.model_type == key.partition(" ")[0]
        assert sweep.files_of(model) == ["w.safetensors"]
        (metric,) = list(model.metrics or ())
        assert (metric.key, metric.value, metric.step) == ("val/top1", 0.5, 2)
        assert (metric.dataset_name, metric.dataset_digest) == ("digits val", "0 val")
        run = sweep.run(key)
        assert run.data.metrics == {"val/top1": 0.5}
        assert run.data.tags[TAG] == model.model_id
        outputs = sweep.client.get_run(run.info.run_id).outputs
        assert outputs is not None
        assert [(o.model_id, o.step) for o in outputs.model_outputs] == [(model.model_id, 2)]
    assert models[CELL].name == "cell-timm_resnet50_a1-c0_875"  # as MLflow allows
    assert models[TRUNK].params == {"train_res": "64"}
    assert sweep.sources_of(CELL) == [models[TRUNK].model_id]


def test_a_model_is_logged_once_with_files_metrics_and_source(
    sweep: TrackedSweep, runs: RunStore, file: Path
) -> None:
    log_both(runs, file)
    log_both(runs, file)
    log_both(run_store(sweep), file)  # another process
    check_both(sweep)


@pytest.mark.parametrize(
    "step",
    [
        "create_logged_model",
        "log_model_artifact",
        "log_outputs",
        "log_inputs",
        "log_batch",
        "finalize_logged_model",
    ],
)
def test_cut_off_after_any_step_it_is_logged_once(
    sweep: TrackedSweep, runs: RunStore, file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The step is done, but the process is killed before it learns of it."""

    class Killed(BaseException):
        pass

    method = getattr(runs.client, step)

    def cut(*args: Any, **kwargs: Any) -> None:
        method(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs.client, step, cut)
        with pytest.raises(Killed):
            log_both(runs, file)
    log_both(run_store(sweep), file)
    check_both(sweep)


def test_a_model_of_which_the_source_was_refused_is_there_and_gets_it_later(
    sweep: TrackedSweep, runs: RunStore, file: Path
) -> None:
    cell: dict[str, Any] = {"params": {"test_res": 96}, "files": [file], "source_key": TRUNK}
    with pytest.raises(NoRunError, match=TRUNK):
        LoggedModels(runs).log(CELL, CELL_NAME, metrics=[METRIC], step=2, **cell)
    assert sweep.sources_of(CELL) == [] and find_model(runs, TRUNK) is None
    model = find_model(runs, CELL)
    assert model is not None and model.status.name == "READY"
    log_both(runs, file)
    check_both(sweep)


def test_a_model_whose_files_are_pruned_is_not_logged(
    sweep: TrackedSweep, runs: RunStore, file: Path
) -> None:
    file.rename(file.with_name("elsewhere"))
    log_both(runs, file)
    assert sweep.models() == {} and sweep.run(CELL).data.tags[TAG] == DROPPED
    file.with_name("elsewhere").rename(file)
    models = LoggedModels(runs)
    runs.ensure("cell d", "cell d", {}, {"role": "cell"}, AT_MS)
    models.log("cell d", "d", params={}, files=[file], metrics=[], step=0, source_key=TRUNK)
    assert sweep.sources_of("cell d") == []


def test_deleted_models_leave_the_disk_and_are_not_logged_again(
    sweep: TrackedSweep, runs: RunStore, file: Path
) -> None:
    log_both(runs, file)
    folders = {k: m.artifact_location.removeprefix("file://") for k, m in sweep.models().items()}
    for _ in range(2):
        LoggedModels(runs).keep_only({TRUNK})
        log_both(runs, file)
    assert sweep.models().keys() == {TRUNK}
    assert sweep.run(CELL).data.tags[TAG] == DROPPED
    files = {key: list(Path(folder).rglob("*.safetensors")) for key, folder in folders.items()}
    assert files[TRUNK] and not files[CELL]
