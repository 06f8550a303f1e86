"""The tracker: a whole sweep in MLflow, whatever happens to the driver or to the server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    TrialRetried,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.tracking.access.preflight import connect
from sweeps.tracking.model_registry import Candidate
from sweeps.tracking.runs import SWEEP_KEY, cell_key, trunk_key
from tests.sweeps.tracking.recorded_sweep import (
    HELD_OUT_ROWS,
    RecordedSweep,
    TrackedSweep,
    run_store,
)
from tests.waiting import HANG_S
from trainables.errors import UserError
from trainables.training.trunk import TrunkStatus


def candidate(folder: Path, name: str, images: str = "i", val_top1: float = 0.5) -> Candidate:
    (folder / "model.safetensors").write_bytes(b"weights")
    return Candidate(
        folder=folder, name=name, tags={"variant": "b0"}, images=images, val_top1=val_top1
    )


def test_a_sweep_is_a_parent_with_a_run_for_each_trunk_and_cell(sweep: TrackedSweep) -> None:
    tracker = sweep.tracker()
    for event in sweep.events:
        tracker.on(event)
    sweep.finish(tracker)
    sweep.check_whole()
    parent = sweep.run(SWEEP_KEY)
    for run in sweep.runs("trunk") + sweep.runs("cell"):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags
    assert parent.data.metrics["test/top1"] == 0.75
    artifacts = {a.path for a in sweep.client.list_artifacts(parent.info.run_id)}
    assert {"figures", "leaderboard.json", "spec.json"} <= artifacts
    cells = sweep.recorded.ended_cells
    assert sweep.models().keys() == {
        *(cell_key(e.cell.key) for e in cells),
        *(trunk_key(e.cell.trunk.key) for e in cells),
    }
    assert sweep.experiment_id in tracker.ui_command() and sweep.id in tracker.ui_command()


def test_cells_that_are_planned_one_after_the_other_are_all_of_the_sweep(
    sweep: TrackedSweep,
) -> None:
    """Only when the last are known can it be said which the sweep is no longer over."""
    tracker = sweep.tracker()
    for event in sweep.events:
        if isinstance(event, CellsPlanned):
            first, *others = event.cells
            tracker.on(CellsPlanned(cells=(first,), is_last=False))
            event = CellsPlanned(cells=tuple(others))
        tracker.on(event)
    sweep.finish(tracker)
    sweep.check_whole()
    keys = {run.data.tags["key"] for run in sweep.runs("cell")}
    assert keys >= {cell_key(e.cell.key) for e in sweep.recorded.ended_cells}
    assert not sweep.runs("former cell")


def test_the_drivers_load_is_a_metric_of_the_parent(
    sweep: TrackedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    before = set(threading.enumerate())
    tracker = sweep.tracker()
    for event in sweep.events[:1] * 2:
        tracker.on(event)
    tracker.flush()
    started = set(threading.enumerate()) - before
    (sampler,) = [t for t in started if t.name == "system-metrics"]  # one, though it began twice
    time.sleep(0.3)
    tracker.close("FINISHED")
    sampler.join(HANG_S)
    assert not sampler.is_alive()
    loads = sweep.run(SWEEP_KEY).data.metrics
    assert 0 <= loads["system/cpu_utilization_percentage"] <= 100


def test_an_event_that_is_not_for_mlflow_changes_nothing(sweep: TrackedSweep) -> None:
    trunk = sweep.recorded.ended_trunks[0].trunk
    sweep.track([sweep.events[0], TrialRetried(trunk=trunk, error="a trace")])
    assert [run.data.tags["key"] for run in sweep.runs()] == [SWEEP_KEY]


def test_failed_trunks_and_cells_are_failed_runs(sweep: TrackedSweep) -> None:
    trunk = next(e for e in sweep.events if isinstance(e, TrunkBegan)).trunk
    cell = next(e for e in sweep.events if isinstance(e, CellBegan))
    sweep.track(
        [
            sweep.events[0],
            TrunkBegan(trunk=cell.cell.trunk),
            TrunkBegan(trunk=trunk),
            TrunkEnded(trunk=trunk, status=TrunkStatus.FAILED, reports=()),
            cell,
            CellEnded(cell=cell.cell, rows=()),
        ]
    )
    assert sweep.run(trunk_key(trunk.key)).info.status == "FAILED"
    assert sweep.run(cell_key(cell.cell.key)).info.status == "FAILED"
    assert sweep.run(SWEEP_KEY).info.status == "FINISHED"


def test_the_model_is_registered_after_what_was_written_before_it(
    sweep: TrackedSweep, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("# b0, 64 -> 96 px\n")
    tracker = sweep.tracker()
    for event in sweep.events:
        tracker.on(event)
    tracker.register_model(candidate(tmp_path, f"net-{sweep.id}"))
    sweep.finish(tracker)
    version = sweep.client.get_model_version_by_alias(f"net-{sweep.id}", "champion")
    assert version.run_id == sweep.run(SWEEP_KEY).info.run_id
    assert version.tags.items() >= {"sweep": sweep.id, "variant": "b0"}.items()
    assert SWEEP_KEY in sweep.models()


def test_only_the_models_that_are_kept_stay(sweep: TrackedSweep) -> None:
    sweep.track(sweep.events)
    cell = sweep.recorded.ended_cells[0]
    tracker = sweep.tracker()
    tracker.keep_only([cell.cell.trunk.key], [cell.cell.key])
    tracker.close("FINISHED")
    assert sweep.models().keys() == {trunk_key(cell.cell.trunk.key), cell_key(cell.cell.key)}


class Counting:
    """MLflow's client, which counts what it is asked."""

    def __init__(self, client: MlflowClient):
        self._client, self.asked = client, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self._client, name)


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_at_the_end_nothing_is_asked_of_runs_that_are_over(
    sweep: TrackedSweep, status: str
) -> None:
    """A question for each would keep a large sweep from stopping for minutes."""
    client: Any = Counting(sweep.client)
    tracker, open_ = sweep.tracker(client=client), sweep.recorded.ended_cells[-1].cell
    for event in sweep.events[:-1]:  # the last cell runs
        tracker.on(event)
    tracker.flush()
    client.asked.clear()
    tracker.close(status)
    assert client.asked == {
        "search_runs": 1, "get_run": 2 * 2, "set_terminated": 2
    }  # the parent, and the cell  # fmt: skip
    assert {r.info.status for r in sweep.runs()} == {"FINISHED", status}
    assert sweep.run(cell_key(open_.key)).info.status == status


# --- the driver is killed, or stopped -----------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.15, 0.5, 0.8, 1.0])
def test_continued_after_a_kill_it_is_whole(sweep: TrackedSweep, part: float) -> None:
    """The first driver ends no run; the second sees what was over again, and goes on."""
    stop = int(part * len(sweep.events))
    first = sweep.tracker()
    for event in sweep.events[:stop]:
        first.on(event)
    first.flush()
    second = sweep.tracker()
    replayed = [e for e in sweep.events[:stop] if not isinstance(e, (TrunkBegan, CellBegan))]
    for event in [*replayed, *sweep.events[min(stop, 1) :]]:
        second.on(event)
    sweep.finish(second)
    sweep.check_whole()


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_stopped_and_continued_it_is_whole(sweep: TrackedSweep, status: str) -> None:
    sweep.track(sweep.events[: len(sweep.events) // 2], status)
    assert not [r for r in sweep.runs() if r.info.status == "RUNNING"]
    assert sweep.run(SWEEP_KEY).info.status == status
    second = sweep.tracker()
    for event in sweep.events:
        second.on(event)
    sweep.finish(second)
    sweep.check_whole()


def test_killed_after_the_results_were_written_they_stand_once(sweep: TrackedSweep) -> None:
    for _ in range(2):
        tracker = sweep.tracker()
        for event in sweep.events:
            tracker.on(event)
        sweep.finish(tracker)
    sweep.check_whole()
    run_id = sweep.run(SWEEP_KEY).info.run_id
    path = sweep.client.download_artifacts(run_id, "leaderboard.json")
    board = json.loads(Path(path).read_text())
    assert len(board["data"]) == len(sweep.recorded.rows) + len(HELD_OUT_ROWS)


def test_two_sweeps_in_one_experiment_keep_apart(
    database: Path, client: MlflowClient, recorded: RecordedSweep
) -> None:
    one, other = (TrackedSweep(database, client, recorded, name) for name in ("one", "other"))
    for sweep in (one, other):
        sweep.track(sweep.events[:4])
    ids = [{r.info.run_id for r in sweep.runs()} for sweep in (one, other)]
    assert len(ids[0]) == len(ids[1]) and not ids[0] & ids[1]


# --- the server is away, or refuses -------------------------------------------------------------


class UnreliableClient(MlflowClient):
    """Does not answer while it is away, and loses the answer to the first run's creation."""

    def __init__(self, uri: str):
        super().__init__(tracking_uri=uri)
        self.away = threading.Event()
        self.lost = 0
        self.callers: set[threading.Thread] = set()

    def check(self) -> None:
        self.callers.add(threading.current_thread())
        if self.away.is_set():
            raise MlflowException("API request failed with exception: connection refused")

    def create_run(self, *args: Any, **kwargs: Any) -> Any:
        self.check()
        run = super().create_run(*args, **kwargs)
        if not self.lost:
            self.lost += 1
            raise MlflowException("API request to x failed with exception: lost answer")
        return run

    def log_batch(self, *args: Any, **kwargs: Any) -> Any:
        self.check()
        return super().log_batch(*args, **kwargs)

    def set_terminated(self, *args: Any, **kwargs: Any) -> Any:
        self.check()
        return super().set_terminated(*args, **kwargs)

    def search_runs(self, *args: Any, **kwargs: Any) -> Any:
        self.check()
        return super().search_runs(*args, **kwargs)

    def log_inputs(self, *args: Any, **kwargs: Any) -> Any:
        self.check()
        return super().log_inputs(*args, **kwargs)


def test_while_the_server_is_away_nothing_waits_and_nothing_is_lost(sweep: TrackedSweep) -> None:
    messages: list[str] = []
    client = UnreliableClient(sweep.uri)
    tracker = sweep.tracker(messages.append, client)
    half = len(sweep.events) // 2
    for event in sweep.events[:half]:
        tracker.on(event)
    tracker.flush()
    client.away.set()
    for event in sweep.events[half:]:
        tracker.on(event)
    assert threading.current_thread() not in client.callers
    assert not tracker.flush(patience_s=1.0)
    client.away.clear()
    sweep.finish(tracker)
    sweep.check_whole()
    assert client.lost == 1
    assert [line.split(" (")[0].split(" after")[0] for line in messages] == [
        "MLflow does not answer", "MLflow is back"
    ] * 2  # fmt: skip


@pytest.mark.parametrize("name", ["log_outputs", "log_inputs", "finalize_logged_model"])
def test_a_lost_answer_about_a_model_does_not_log_it_twice(
    sweep: TrackedSweep, client: MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = getattr(client, name)
    lost: list[Any] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        answer = method(*args, **kwargs)
        if not lost and "datasets" not in kwargs:
            lost.append(args)
            raise MlflowException("the answer was lost on its way")
        return answer

    monkeypatch.setattr(client, name, broken)
    tracker = sweep.tracker(client=client)
    for event in sweep.events:
        tracker.on(event)
    sweep.finish(tracker)
    sweep.check_whole()
    assert lost and {m.status.name for m in sweep.models().values()} == {"READY"}


def test_what_mlflow_refuses_is_told_and_the_rest_is_written(
    sweep: TrackedSweep, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("# a model\n")
    messages: list[str] = []
    tracker = sweep.tracker(messages.append)
    tracker.on(sweep.events[0])
    tracker.register_model(candidate(tmp_path, "not/allowed"))
    tracker.attach([tmp_path / "README.md"])
    tracker.close("FINISHED")
    artifacts = sweep.client.list_artifacts(run_store(sweep).run_id(SWEEP_KEY))
    assert [a.path for a in artifacts] == ["README.md"]
    (message,) = messages
    assert message.startswith("MLflow refused get_registered_model (Invalid model name")


def test_a_server_that_does_not_answer_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(UserError) as refusal:
        connect(f"http://me:s3cret@127.0.0.1:{port}", "e", "--tracking-uri")
    assert sum(waits) < 15
    message = str(refusal.value)
    assert f"--tracking-uri http://127.0.0.1:{port} cannot be used" in message
    assert "s3cret" not in message and "\n" not in message
