"""The parent run: the plan, the images, the driver's load, the results."""

from __future__ import annotations

import json
from pathlib import Path

from sweeps.selection.choice import Choice
from sweeps.tracking.cell_run import CellRunWriter
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.payloads import Results
from sweeps.tracking.runs import SWEEP_KEY, RunStore, cell_key
from sweeps.tracking.sweep_run import SweepRunWriter
from tests.factories import a_row, plan_of, spec_with
from tests.sweeps.tracking.recorded_sweep import (
    HELD_OUT_ROWS,
    PLAN,
    TrackedSweep,
    run_store,
)

AT_MS = 1_700_000_000_000
ROWS = [a_row(20, arm="none"), a_row(30)]
CHOICE = Choice(row=ROWS[-1], reason="It is the best.", optimism=0.01)


def writer_of(runs: RunStore) -> SweepRunWriter:
    return SweepRunWriter(runs, ImageDatasets(runs), "a sweep")


def test_the_parent_names_the_grid_the_images_and_the_plan(sweep: TrackedSweep) -> None:
    writer = writer_of(run_store(sweep))
    writer.begin(PLAN, AT_MS)
    writer.log_view()
    parent = sweep.run(SWEEP_KEY)
    assert (parent.info.run_name, parent.info.start_time) == ("a sweep", AT_MS)
    axes = {"variants": "b0", "train_res": "64 96", "test_res": "64 96", "test_crop_pct": "1.0"}
    assert parent.data.params == axes
    tags = {"role": "sweep", "images": "0123456789abcdef", "seed": "0"}
    tags |= {"n_train": "120", "n_val": "50", "n_test": "40"}
    assert tags.items() <= parent.data.tags.items()
    note = parent.data.tags["mlflow.note.content"]
    assert "4 trunks, 4 cells" in note and "120 train, 50 val, 40 test images of 3 classes" in note
    assert len(sweep.images_of(SWEEP_KEY)) == 3
    view = f"mlflow.sharedViewState.sweep-{sweep.id}"
    experiment = sweep.client.get_experiment(sweep.experiment_id)
    assert "Cells of a sweep, best first" in experiment.tags[view]


def test_a_parent_that_has_finished_is_opened_again(sweep: TrackedSweep) -> None:
    runs = run_store(sweep)
    writer_of(runs).begin(PLAN, AT_MS)
    runs.end(SWEEP_KEY)
    writer_of(run_store(sweep)).begin(PLAN, AT_MS + 1)
    assert sweep.run(SWEEP_KEY).info.status == "RUNNING"
    assert len(sweep.runs()) == 1


def test_system_metrics_are_stepped_in_seconds_since_the_first_start(sweep: TrackedSweep) -> None:
    for offset_ms in (2_500, 60_000):  # the second after a restart
        runs = run_store(sweep)
        writer = writer_of(runs)
        writer.begin(PLAN, AT_MS + offset_ms - 2_500)
        writer.defer_system_metrics({"system/load": 0.5}, AT_MS + offset_ms)
        runs.log_metrics(SWEEP_KEY)
    assert sweep.points() == {(SWEEP_KEY, "system/load"): [(2, 0.5), (60, 0.5)]}


def test_files_become_artifacts_in_their_folder(sweep: TrackedSweep, tmp_path: Path) -> None:
    writer = writer_of(run_store(sweep))
    writer.begin(PLAN, AT_MS)
    for name in ("spec.json", "a.png", "b.png"):
        (tmp_path / name).write_text("{}")
    writer.log_file(tmp_path / "spec.json")
    writer.log_file(tmp_path / "a.png", "figures")
    writer.log_file(tmp_path / "b.png", "figures")
    run_id = sweep.run(SWEEP_KEY).info.run_id
    assert {a.path for a in sweep.client.list_artifacts(run_id)} == {"figures", "spec.json"}
    figures = {a.path for a in sweep.client.list_artifacts(run_id, "figures")}
    assert figures == {"figures/a.png", "figures/b.png"}


def test_the_results_stand_once_however_often_they_are_written(sweep: TrackedSweep) -> None:
    for _ in range(2):
        runs = run_store(sweep)
        writer = writer_of(runs)
        writer.begin(PLAN, AT_MS)
        runs.ensure(cell_key("c"), "a cell", {}, {"role": "cell"}, AT_MS)
        writer.log_results(Results(choice=CHOICE, rows=[*ROWS, *HELD_OUT_ROWS]))
        writer.log_leaderboard([*ROWS, *HELD_OUT_ROWS])
    parent = sweep.run(SWEEP_KEY)
    assert parent.data.metrics["test/top1"] == 0.75
    assert parent.data.metrics["test/top1_untuned"] == 0.6
    assert parent.data.metrics["my set _v2_/top1"] == 0.25
    assert all(len(values) == 1 for values in sweep.points().values())
    assert parent.data.tags["chosen"] == "b0 64 -> 96 px, crop 1.0, arm fix"
    assert parent.data.tags["reason"] == "It is the best."
    reason, link, view, note = parent.data.tags["mlflow.note.content"].split("\n\n")
    assert view.startswith("[All 1 cells, best first](#/experiments/")
    assert link.startswith("[Compare the 1 cells]") and runs.run_id(cell_key("c")) in link
    assert reason == "It is the best." and "(n = 50)" in note
    path = sweep.client.download_artifacts(parent.info.run_id, "leaderboard.json")
    board = json.loads(Path(path).read_text())
    assert board["columns"][:5] == ["variant", "train_res", "test_res", "crop_pct", "arm"]
    assert len(board["data"]) == len(ROWS) + len(HELD_OUT_ROWS)


def test_the_parent_of_an_extended_sweep_names_what_it_is_over_now(sweep: TrackedSweep) -> None:
    """Parameters never change in MLflow: tags of the same names say what they are now."""
    more = plan_of(spec_with(PLAN.spec, variants=("b0", "b1"), test_res=(64, 96, 128), samples=3))
    for plan, tests, trunks in ((PLAN, None, 4), (more, "64 96 128", 12), (PLAN, "64 96", 4)):
        for _ in range(2):
            writer_of(run_store(sweep)).begin(plan, AT_MS)
        data = sweep.run(SWEEP_KEY).data
        assert data.params["test_res"] == "64 96" and data.tags.get("test_res") == tests
        assert "train_res" not in data.tags  # it never was another
        assert f"{trunks} trunks" in data.tags["mlflow.note.content"]


def test_the_last_choice_is_what_the_parent_shows(sweep: TrackedSweep) -> None:
    """MLflow takes the largest of equal steps and times for the last."""
    writer = writer_of(run_store(sweep))
    writer.begin(PLAN, AT_MS)
    for step, hits in enumerate((30, 40, 20)):
        row = a_row(hits)
        choice = Choice(row=row, reason="It is the best.", optimism=0.01)
        for _ in range(2):
            writer.log_results(Results(choice=choice, rows=[row], step=step))
        assert sweep.run(SWEEP_KEY).data.metrics["val/top1"] == hits / 50
    assert sorted(sweep.points()[SWEEP_KEY, "val/top1"]) == [(0, 0.6), (1, 0.8), (2, 0.4)]


def test_cells_that_the_sweep_is_no_longer_over_are_not_among_those_compared(
    sweep: TrackedSweep,
) -> None:
    runs = run_store(sweep)
    writer_of(runs).begin(PLAN, AT_MS)
    cells = CellRunWriter(runs, ImageDatasets(runs), LoggedModels(runs), sweep.recorded.store)
    for name in "abc":
        runs.ensure(cell_key(name), "a cell", {}, {"role": "cell"}, AT_MS)
    for planned in ("ab", "bc", "abc"):
        cells.mark_former(planned)
        assert {run.data.tags["key"] for run in sweep.runs("cell")} == {
            cell_key(name) for name in planned
        }
        writer = writer_of(run_store(sweep))
        writer.begin(PLAN, AT_MS)
        writer.log_results(Results(choice=CHOICE, rows=ROWS))
        note = sweep.run(SWEEP_KEY).data.tags["mlflow.note.content"]
        assert f"[Compare the {len(planned)} cells]" in note
