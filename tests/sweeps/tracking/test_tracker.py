"""MLflow: written twice it stays the same, and nothing is left running."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.reselect import load_sweep
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.tracking.payloads import ROWS
from sweeps.tracking.tracker import MlflowTracker, default_uri
from tests.factories import a_row, plan_of, spec_with
from tests.fake_training import phase
from trainables.errors import SweepError, UserError
from trainables.fixres.cell import PREDICTIONS, delta_path, recorded_hits, write_predictions
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_tensors
from trainables.storage.hashing import content_hash

PLAN = plan_of(
    spec_with(
        train_res=(64, 96), test_res=(64, 96), samples=2, epochs=2, grace_epochs=1, reduction=2
    )
)
UNSEEN = [
    a_row(hits, 40, split=split, arm=arm)
    for split, arm, hits in (
        ("test", "fix", 30), ("test", "crop1", 24), ("my set (v2)", "fix", 10)
    )
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What tracking sets for its HTTP client is taken back."""
    before = dict(os.environ)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all: a fresh one takes seconds."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Store, list[Row]]:
    """The events of a whole sweep, and the store that they speak of."""
    director, store, _, events = phase(PLAN, tmp_path_factory.mktemp("store"))
    survivors = director.survivors()
    cells = [(PLAN.cell(t.variant, t.key, res), t) for t in survivors for res in (64, 96)]
    all_events: list[Event] = [SweepBegan(plan=PLAN), *events, CellsPlanned(cells=tuple(cells))]
    all_rows: list[Row] = []
    for i, (cell, trunk) in enumerate(cells):
        place: dict[str, Any] = {"cell": cell.key, "trunk": trunk.key, "train_res": trunk.train_res,
                 "test_res": cell.test_res}  # fmt: skip
        rows = (a_row(20 + i, arm="none", **place), a_row(30 + i, **place))
        write_tensors(delta_path(store, cell.key, "fix"), {"w": torch.zeros(2)})
        labels = torch.zeros(50, dtype=torch.int64)
        predictions = {"none": labels, "fix": labels}
        write_predictions(store.cell(cell.key) / PREDICTIONS, labels, predictions)
        all_events.append(CellBegan(cell=cell, trunk=trunk))
        all_events.append(CellEnded(cell=cell, trunk=trunk, rows=rows))
        all_rows += rows
    return all_events, store, all_rows


class Sweep:
    """A sweep's id in the shared database, and what is there of it."""

    def __init__(self, folder: Path, client: MlflowClient, told: Any, sweep_id: str):
        self.folder, self.client, self.id = folder, client, sweep_id
        self.events, self.store, self.rows = told

    def tracking(self, tell: Callable[[str], None] = lambda _: None) -> MlflowTracker:
        uri = f"sqlite:///{self.folder}/mlflow.db"
        return MlflowTracker(uri, "fixres-sweeps", self.id, "a sweep", self.store, tell)

    def finish(self, tracking: MlflowTracker) -> None:
        choice = Choice(row=self.rows[-1], reason="It is the best.", optimism=0.01)
        for name, to in (("spec.json", ""), ("heatmap.png", "figures")):
            (self.folder / name).write_text("{}")
            tracking.attach([self.folder / name], to)
        tracking.finish(choice, [*self.rows, *UNSEEN])
        tracking.close("FINISHED")

    @property
    def experiment_id(self) -> str:
        experiment = self.client.get_experiment_by_name("fixres-sweeps")
        assert experiment is not None
        return str(experiment.experiment_id)

    def models(self) -> list[Any]:
        mine = f"tags.sweep = '{self.id}'"
        return list(self.client.search_logged_models([self.experiment_id], filter_string=mine))

    def files_of(self, model: Any) -> list[str]:
        return [a.path for a in self.client.list_logged_model_artifacts(model.model_id)]

    def runs(self, role: str = "") -> list[Any]:
        found = self.client.search_runs(
            [self.experiment_id], f"tags.sweep = '{self.id}'", max_results=1000
        )
        return [r for r in found if role in ("", r.data.tags["role"])]

    def points(self) -> dict[tuple[str, str], list[tuple[int, float]]]:
        """All metric points by run and metric."""
        return {
            (run.data.tags["key"], name): [
                (m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, name)
            ]
            for run in self.runs()
            for name in run.data.metrics
        }


@pytest.fixture
def sweep(folder: Path, client: MlflowClient, told: Any, request: pytest.FixtureRequest) -> Sweep:
    return Sweep(folder, client, told, content_hash(request.node.name))


def check_whole(sweep: Sweep) -> None:
    """One run for each trunk and cell, each over, each point once."""
    ends = [e for e in sweep.events if isinstance(e, TrunkEnded)]
    cells = [e for e in sweep.events if isinstance(e, CellEnded)]
    keys = [
        "sweep",
        *(f"trunk {e.trunk.key}" for e in ends),
        *(f"cell {e.cell.key}" for e in cells),
    ]
    runs = sweep.runs()
    assert Counter(r.data.tags["key"] for r in runs) == Counter(keys)
    assert {r.info.status for r in runs} == {"FINISHED"}
    points = sweep.points()
    for (key, name), values in points.items():
        steps = [step for step, _ in values]
        assert len(steps) == len(set(steps)), (key, name, values)
    for event in ends:
        own = points[f"trunk {event.trunk.key}", "val/top1"]
        scored = {r.epoch: r.best_val.top1 for r in event.reports if r.best_val}
        assert len(own) == len(scored) and dict(own) == pytest.approx(scored)
        lrs = points[f"trunk {event.trunk.key}", "lr"]
        assert [step for step, _ in sorted(lrs)] == [r.epoch for r in event.reports]


def test_a_sweep_is_a_parent_with_a_run_for_each_trunk_and_cell(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    for event in sweep.events:
        tracking.on(event)
    sweep.finish(tracking)
    check_whole(sweep)
    (parent,) = sweep.runs("sweep")
    for run in sweep.runs("trunk") + sweep.runs("cell"):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags
    assert parent.data.metrics["test/top1"] == 0.75
    assert parent.data.metrics["test/top1_untuned"] == 0.6
    assert parent.data.metrics["my set _v2_/top1"] == 0.25
    assert "(n = 50)" in parent.data.tags["mlflow.note.content"]
    artifacts = {a.path for a in sweep.client.list_artifacts(parent.info.run_id)}
    assert {"figures", "leaderboard.json", "spec.json"} <= artifacts


def test_cells_have_the_three_axes_as_their_only_parameters(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    for event in sweep.events:
        tracking.on(event)
    tracking.close("FINISHED")
    ended = {f"cell {e.cell.key}": e for e in sweep.events if isinstance(e, CellEnded)}
    trunks = {r.data.tags["key"]: r for r in sweep.runs("trunk")}
    for run in sweep.runs("cell"):
        event = ended[run.data.tags["key"]]
        assert run.data.params == {
            "variant": "b0",
            "train_res": str(event.trunk.train_res),
            "test_res": str(event.cell.test_res),
        }
        none, fix = event.rows
        assert run.data.metrics["val/top1"] == pytest.approx(fix.top1)
        assert run.data.metrics["val/top1_none"] == pytest.approx(none.top1)
        assert run.data.tags["n_val"] == "50"
        own_trunk = trunks[f"trunk {event.trunk.key}"]
        assert run.data.tags["trunk_run"] == own_trunk.info.run_id
        files = {a.path for a in sweep.client.list_artifacts(run.info.run_id)}
        assert files == {ROWS, PREDICTIONS}
        path = sweep.client.download_artifacts(run.info.run_id, ROWS)
        assert leaderboard.read(Path(path)) == list(event.rows)
        assert run.data.tags["best_arm"] == "fix"
        assert (
            run.data.tags["head_fix"].endswith("of 30 tried") and "head_none" not in run.data.tags
        )


def test_checkpoints_are_logged_models_with_their_metrics_and_their_origin(sweep: Sweep) -> None:
    for _ in range(2):  # told twice they are there once
        tracking = sweep.tracking()
        for event in sweep.events:
            tracking.on(event)
        tracking.close("FINISHED")
    (parent,) = sweep.runs("sweep")
    digests = {i.dataset.name: i.dataset.digest for i in parent.inputs.dataset_inputs}
    assert set(digests) == {f"built-in digits {split}" for split in ("train", "val", "test")}
    assert len(set(digests.values())) == 3
    models = {m.tags["key"]: m for m in sweep.models()}
    ended = [e for e in sweep.events if isinstance(e, CellEnded)]
    cells = {f"cell {e.cell.key}": e for e in ended}
    assert models.keys() == cells.keys() | {f"trunk {e.trunk.key}" for e in ended}
    assert len(sweep.models()) == len(models)
    for key, event in cells.items():
        metrics = {m.key: m for m in models[key].metrics}
        assert metrics["val/top1_fix"].value == pytest.approx(event.rows[1].top1)
        assert metrics["val/top1_fix"].dataset_digest == digests["built-in digits val"]
        (run,) = [r for r in sweep.runs("cell") if r.data.tags["key"] == key]
        inputs = sweep.client.get_run(run.info.run_id).inputs
        assert inputs is not None
        (source,) = inputs.model_inputs
        assert source.model_id == models[f"trunk {event.trunk.key}"].model_id
        assert [i.dataset.name for i in run.inputs.dataset_inputs] == ["built-in digits val"]
        assert sweep.files_of(models[key]) == ["delta-fix.safetensors"]
        assert sweep.files_of(models[f"trunk {event.trunk.key}"]) == ["trunk.safetensors"]


@pytest.mark.parametrize("name", ["log_outputs", "log_inputs", "finalize_logged_model"])
def test_a_checkpoint_cut_off_in_its_logging_is_logged_once(
    sweep: Sweep, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is answered, and the answer is lost."""
    first = sweep.tracking()
    whole = getattr(first.client, name)
    lost: list[Any] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        found = whole(*args, **kwargs)
        if not lost and "datasets" not in kwargs:
            lost.append(args)
            raise MlflowException("the answer was lost on its way")
        return found

    monkeypatch.setattr(first.client, name, broken)
    for event in sweep.events:
        first.on(event)
    sweep.finish(first)
    check_whole(sweep)
    assert lost and len(sweep.models()) == len({m.tags["key"] for m in sweep.models()})
    assert {m.status.name for m in sweep.models()} == {"READY"}


def test_dropped_checkpoints_leave_the_disk_and_are_not_logged_again(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    for event in sweep.events:
        tracking.on(event)
    tracking.flush()
    models = {m.tags["key"]: m for m in sweep.models()}
    (cell, *_) = [e for e in sweep.events if isinstance(e, CellEnded)]
    for _ in range(2):
        tracking.keep_only([cell.trunk.key], [cell.cell.key])
        for event in sweep.events:
            tracking.on(event)
    tracking.close("FINISHED")
    stay = {f"trunk {cell.trunk.key}", f"cell {cell.cell.key}"}
    assert {m.tags["key"] for m in sweep.models()} == stay < models.keys()
    for key, model in models.items():
        folder = Path(model.artifact_location.removeprefix("file://"))
        assert bool(list(folder.rglob("*.safetensors"))) == (key in stay)


def test_a_choice_may_be_made_from_the_runs_alone(sweep: Sweep, tmp_path: Path) -> None:
    """Of a sweep that is still running: its last cell is not done."""
    tracking = sweep.tracking()
    *done, last = sweep.events
    assert isinstance(last, CellEnded)
    for event in done:
        tracking.on(event)
    (sweep.folder / "spec.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    tracking.attach([sweep.folder / "spec.json"])
    tracking.flush()
    with load_sweep(f"runs:/{tracking.parent_id}", tracking.uri) as found:
        rows = leaderboard.read(found.folder / "leaderboard.parquet")
        assert set(rows) == set(sweep.rows) - set(last.rows)
        for row in rows:
            assert len(recorded_hits(found.store, row.cell, row.arm)) == row.n
        assert found.record["classes"] == ["a", "b", "c"]
    assert not found.folder.exists()
    tracking.close("KILLED")
    missing = "f" * 32
    with (
        pytest.raises(UserError, match=f"--sweep runs:/{missing} cannot be read from MLflow"),
        load_sweep(f"runs:/{missing}", tracking.uri),
    ):
        pass


def test_while_the_server_is_away_nothing_waits_and_nothing_is_lost(sweep: Sweep) -> None:
    told: list[str] = []
    tracking = sweep.tracking(told.append)
    away = threading.Event()

    def break_down(name: str) -> None:
        whole = getattr(tracking.client, name)

        def broken(*args: Any, **kwargs: Any) -> Any:
            if away.is_set():
                raise MlflowException("API request failed with exception: connection refused")
            found = whole(*args, **kwargs)
            if name == "create_run" and not lost:
                lost.append(found)
                raise MlflowException("the answer was lost on its way")
            return found

        setattr(tracking.client, name, broken)

    lost: list[Any] = []
    for name in ("create_run", "log_batch", "set_terminated", "search_runs", "log_inputs"):
        break_down(name)
    half = len(sweep.events) // 2
    for event in sweep.events[:half]:
        tracking.on(event)
    tracking.flush()
    away.set()
    began = time.monotonic()
    for event in sweep.events[half:]:
        tracking.on(event)
    assert time.monotonic() - began < 0.5
    with pytest.raises(SweepError, match="the same command again writes what MLflow lacks"):
        tracking.flush(patience_s=1.0)
    away.clear()
    sweep.finish(tracking)
    check_whole(sweep)
    assert len(lost) == 1
    assert [line.split(" (")[0].split(" after")[0] for line in told] == [
        "MLflow does not answer", "MLflow is back"
    ] * 2  # fmt: skip


def test_what_mlflow_refuses_is_not_tried_for_ever(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    tracking.on(sweep.events[0])
    tracking.put(lambda: tracking.runs.put_by("sweep", [Metric("@", 1.0, 0, 0)]))
    with pytest.raises(MlflowException, match="Invalid value"):
        tracking.flush()


@pytest.mark.parametrize("part", [0.0, 0.15, 0.5, 0.8, 1.0])
def test_told_again_after_a_kill_it_stays_the_same(sweep: Sweep, part: float) -> None:
    """The first driver dies without a word; the second is told of what was over and goes on."""
    stop = int(part * len(sweep.events))
    first = sweep.tracking()
    for event in sweep.events[:stop]:
        first.on(event)
    first.flush()
    second = sweep.tracking()
    replayed = [e for e in sweep.events[:stop] if not isinstance(e, (TrunkBegan, CellBegan))]
    for event in [*replayed, *sweep.events[min(stop, 1) :]]:
        second.on(event)
    sweep.finish(second)
    check_whole(sweep)


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_stopped_and_continued_it_is_whole(sweep: Sweep, status: str) -> None:
    first = sweep.tracking()
    for event in sweep.events[: len(sweep.events) // 2]:
        first.on(event)
    first.close(status)
    assert not [r for r in sweep.runs() if r.info.status == "RUNNING"]
    assert sweep.runs("sweep")[0].info.status == status
    second = sweep.tracking()
    for event in sweep.events:
        second.on(event)
    sweep.finish(second)
    check_whole(sweep)


def test_killed_after_the_results_were_written_they_stand_once(sweep: Sweep) -> None:
    for _ in range(2):
        tracking = sweep.tracking()
        for event in sweep.events:
            tracking.on(event)
        sweep.finish(tracking)
    check_whole(sweep)
    (parent,) = sweep.runs("sweep")
    path = sweep.client.download_artifacts(parent.info.run_id, "leaderboard.json")
    board = json.loads(Path(path).read_text())
    assert len(board["data"]) == len(sweep.rows) + len(UNSEEN)


def test_a_run_whose_parameters_were_never_written_gets_them(sweep: Sweep) -> None:
    """Its maker was killed between making the run and writing its parameters."""
    first = sweep.tracking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first.client, "log_batch", lambda *_, **__: None)
        for event in sweep.events[:3]:
            first.on(event)
        first.flush()
    second = sweep.tracking()
    for event in sweep.events:
        second.on(event)
    second.close("FINISHED")
    assert all(r.data.params for r in sweep.runs())


def test_failed_trunks_and_cells_are_told_as_failed(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    began = next(e for e in sweep.events if isinstance(e, TrunkBegan))
    cell = next(e for e in sweep.events if isinstance(e, CellBegan))
    tracking.on(sweep.events[0])
    tracking.on(TrunkBegan(trunk=began.trunk))
    tracking.on(TrunkEnded(trunk=began.trunk, why="failed", reports=()))
    if cell.trunk.key != began.trunk.key:
        tracking.on(TrunkBegan(trunk=cell.trunk))
    tracking.on(cell)
    tracking.on(CellEnded(cell=cell.cell, trunk=cell.trunk, rows=()))
    tracking.close("FINISHED")
    by_key = {r.data.tags["key"]: r.info.status for r in sweep.runs()}
    assert by_key[f"trunk {began.trunk.key}"] == "FAILED"
    assert by_key[f"cell {cell.cell.key}"] == "FAILED"
    assert by_key["sweep"] == "FINISHED"


def test_a_trunk_that_lost_its_loss_is_written_without_it(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    tracking.on(sweep.events[0])
    epoch = next(e for e in sweep.events if isinstance(e, EpochEnded))
    lost: dict[str, Any] = {"loss": None, "val": {}, "diverged": True}
    report = type(epoch.report)(**{**vars(epoch.report), **lost})
    tracking.on(TrunkBegan(trunk=epoch.trunk))
    tracking.on(EpochEnded(trunk=epoch.trunk, report=report, should_continue=False))
    tracking.on(TrunkEnded(trunk=epoch.trunk, why="diverged", reports=(report,)))
    tracking.close("FINISHED")
    (run,) = sweep.runs("trunk")
    assert run.data.tags["ended"] == "diverged" and "train/loss" not in run.data.metrics


def test_two_sweeps_in_one_experiment_keep_apart(
    folder: Path, client: MlflowClient, told: Any
) -> None:
    one, other = (Sweep(folder, client, told, name) for name in ("one", "other"))
    for sweep in (one, other):
        tracking = sweep.tracking()
        for event in sweep.events[:4]:
            tracking.on(event)
        tracking.close("FINISHED")
    ids = [{r.info.run_id for r in sweep.runs()} for sweep in (one, other)]
    assert len(ids[0]) == len(ids[1]) and not ids[0] & ids[1]


# --- where it cannot be written ---------------------------------------------------------------


def test_a_server_that_does_not_answer_is_told_soon(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(UserError) as refusal:
        MlflowTracker(f"http://me:s3cret@127.0.0.1:{port}", "e", "s", "n", Store(tmp_path))
    assert time.monotonic() - began < 15
    message = str(refusal.value)
    assert f"--tracking-uri http://127.0.0.1:{port} cannot be used" in message
    assert "s3cret" not in message and "\n" not in message


def test_a_deleted_experiment_is_the_users_to_mend(
    folder: Path, client: MlflowClient, tmp_path: Path
) -> None:
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match="--experiment gone has been deleted in MLflow: restore it"):
        MlflowTracker(f"sqlite:///{folder}/mlflow.db", "gone", "s", "n", Store(tmp_path))


def test_where_to_track_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(Path("/a/out")) == "sqlite:////a/out/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert default_uri(Path("/a/out")) == "http://tracker:5000"


def test_the_way_to_the_ui(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    assert f"mlflow ui --backend-store-uri sqlite:///{sweep.folder}/mlflow.db" in (
        tracking.ui_command()
    )
    tracking.uri = "https://me:pass@host/"
    assert tracking.ui_command().startswith("https://host/#/experiments/")


def test_artifacts_lie_beside_the_database_not_in_the_working_directory(sweep: Sweep) -> None:
    sweep.tracking()
    experiment = sweep.client.get_experiment_by_name("fixres-sweeps")
    assert experiment is not None
    assert experiment.artifact_location == (sweep.folder / "mlartifacts").as_uri()


def test_a_plan_in_words_names_grid_and_sizes(sweep: Sweep) -> None:
    tracking = sweep.tracking()
    tracking.on(SweepBegan(plan=PLAN))
    tracking.close("FINISHED")
    (parent,) = sweep.runs("sweep")
    assert parent.data.params == {"variants": "b0", "train_res": "64 96", "test_res": "64 96"}
    note = parent.data.tags["mlflow.note.content"]
    assert "4 trunks, 4 cells" in note and "120 train, 50 val, 40 test images of 3 classes" in note
