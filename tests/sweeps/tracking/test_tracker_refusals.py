"""The tracker in front of a server that refuses: the rest gets through, and what lacks comes later.

A real server, behind a proxy that answers as proxies do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from sweeps.events.event_types import CellsPlanned
from sweeps.tracking.delivery import outbox
from sweeps.tracking.delivery.shortfall import shortfall_path
from sweeps.tracking.runs import SWEEP_KEY, cell_key, trunk_key
from tests.mlflow_server import Proxy, proxied_server
from tests.sweeps.tracking.recorded_sweep import RecordedSweep, TrackedSweep
from trainables.storage.hashing import content_hash

ARTIFACTS = r"PUT .*/mlflow-artifacts/artifacts/"


@pytest.fixture(scope="module")
def proxy(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxied_server(tmp_path_factory.mktemp("served") / "server") as proxy:
        yield proxy


@pytest.fixture
def served(
    proxy: Proxy,
    recorded: RecordedSweep,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TrackedSweep]:
    """A sweep of the test's own at the server, whose waits are short."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 0.02)
    shortfall_path(recorded.store).unlink(missing_ok=True)
    client = MlflowClient(tracking_uri=proxy.uri)
    folder = request.getfixturevalue("tmp_path")
    yield TrackedSweep(folder, client, recorded, content_hash(request.node.nodeid), proxy.uri)
    proxy.clear()


def tell(sweep: TrackedSweep) -> tuple[str | None, list[str]]:
    """Tell MLflow of the whole sweep as a process of its own; why it lacks something, and lines."""
    said: list[str] = []
    tracker = sweep.tracker(said.append)
    for event in sweep.events:
        tracker.on(event)
    sweep.finish(tracker)
    return tracker.shortcoming, said


@pytest.mark.parametrize(
    ("pattern", "status", "call"),
    [
        ("POST .*/runs/create", 403, "create_run (403 Forbidden)"),
        ("POST .*/runs/log-batch", 400, "log_batch (400 Bad Request)"),
        ("POST .*/runs/log-inputs", 404, "log_inputs (404 Not Found)"),
        ("POST .*/runs/update", 500, "set_terminated (500 Internal Server Error)"),
        ("POST .*/logged-models$", 403, "create_logged_model (403 Forbidden)"),
        ("POST .*/set-experiment-tag", 403, "set_experiment_tag (403 Forbidden)"),
        (ARTIFACTS, 413, "log_artifact (413"),
        (ARTIFACTS, 500, "log_artifact (500 Internal Server Error)"),
        ("GET .*/runs/get", 500, "get_run (500 Internal Server Error)"),
    ],
)
def test_a_refusal_is_told_and_what_it_was_for_is_sent_by_the_next_command(
    served: TrackedSweep, proxy: Proxy, pattern: str, status: int, call: str
) -> None:
    proxy.refusals[pattern] = status
    shortcoming, said = tell(served)
    assert shortcoming is not None and shortcoming.startswith("refused ")
    assert any(line.startswith(f"MLflow refused {call}") for line in said), said
    assert len(said) == len(set(said)) and not any("does not answer" in line for line in said)
    assert served.lacks_something
    proxy.clear()
    assert tell(served) == (None, [])
    served.check_whole()
    assert all(served.files_of(model) for model in served.models().values())


def test_where_only_files_are_refused_all_metrics_are_there(
    served: TrackedSweep, proxy: Proxy
) -> None:
    proxy.refusals = {ARTIFACTS: 413}
    tell(served)
    assert {run.info.status for run in served.runs()} == {"FINISHED"}
    assert served.run(SWEEP_KEY).data.metrics["test/top1"] == 0.75
    for event in served.recorded.ended_cells:
        metrics = served.run(cell_key(event.cell.key)).data.metrics
        assert metrics["val/top1"] == pytest.approx(max(row.top1 for row in event.rows))
    assert {name for _, name in served.points()} >= {"lr", "train/loss", "val/top1_fix"}


def test_a_run_that_has_ended_keeps_its_time_when_it_is_sent_again(
    served: TrackedSweep, proxy: Proxy
) -> None:
    proxy.refusals = {ARTIFACTS: 413}
    tell(served)
    key = cell_key(served.recorded.ended_cells[0].cell.key)
    ended = served.run(key).info.end_time
    proxy.clear()
    tell(served)
    assert served.run(key).info.end_time == ended
    assert served.client.list_artifacts(served.run(key).info.run_id)


def test_a_run_whose_creation_got_no_answer_is_there_once(
    served: TrackedSweep, proxy: Proxy
) -> None:
    proxy.lost = ["POST .*/runs/create"]
    shortcoming, said = tell(served)
    assert shortcoming is None and proxy.lost == []
    assert [line.partition(" (")[0].partition(" after")[0] for line in said] == [
        "MLflow does not answer", "MLflow is back"
    ]  # fmt: skip
    served.check_whole()


def test_runs_that_are_deleted_in_between_are_written_anew(served: TrackedSweep) -> None:
    said: list[str] = []
    tracker = served.tracker(said.append)
    (planned,) = [i for i, e in enumerate(served.events) if isinstance(e, CellsPlanned)]
    for event in served.events[:planned]:
        tracker.on(event)
    tracker.flush()
    gone = served.runs()
    for run in gone:
        served.client.delete_run(run.info.run_id)
    for event in served.events[planned:]:
        tracker.on(event)
    served.finish(tracker)
    assert tracker.shortcoming is None
    assert said == [f"MLflow has lost {len(gone)} runs of this sweep: they are written anew"]
    served.check_whole()
    parent = served.run(SWEEP_KEY).info.run_id
    for run in served.runs():
        if run.info.run_id != parent:
            assert run.data.tags["mlflow.parentRunId"] == parent
    for event in served.recorded.ended_cells:
        trunk = served.run(trunk_key(event.cell.trunk.key)).info.run_id
        assert served.run(cell_key(event.cell.key)).data.tags["trunk_run"] == trunk


def test_a_deleted_experiment_costs_nothing_but_a_line(served: TrackedSweep) -> None:
    said: list[str] = []
    tracker = served.tracker(said.append, experiment="to be deleted")
    for event in served.events[:3]:
        tracker.on(event)
    tracker.flush()
    experiment = served.client.get_experiment_by_name("to be deleted")
    assert experiment is not None
    served.client.delete_experiment(experiment.experiment_id)
    for event in served.events[3:]:
        tracker.on(event)
    tracker.close("FINISHED")
    assert tracker.shortcoming is not None and tracker.shortcoming.startswith("refused create_run")


def test_an_away_server_is_waited_for_so_long_and_sent_the_rest_later(
    served: TrackedSweep, proxy: Proxy
) -> None:
    tracker = served.tracker()
    for event in served.events:
        tracker.on(event)
    tracker.flush()
    proxy.refusals = {".": 503}
    tracker.attach([Path(__file__)])
    tracker.begin_closing()
    tracker.close("FINISHED", patience_s=0.2)
    tracker.close("FINISHED")  # It does not wait for ever.
    tracker.attach([Path(__file__)])
    assert tracker.flush()
    assert tracker.shortcoming == f"at {proxy.uri} has not answered for 0 minutes"
    assert served.lacks_something
    proxy.clear()
    assert tell(served) == (None, [])
    served.check_whole()
