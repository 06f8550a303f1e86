"""The store of runs: each is there once under its key, and writing again changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from sweeps.tracking.runs import SWEEP_KEY, NoRunError, RunStore, cell_key, points, trunk_key
from tests.sweeps.tracking.recorded_sweep import TrackedSweep, run_store, started_runs

START_MS = 1_700_000_000_000
KEY = trunk_key("t1")


def ensure(runs: RunStore, key: str = KEY, start_ms: int = START_MS) -> bool:
    return runs.ensure(key, "a run", {"train_res": 64}, {"role": "trunk", "epochs": 2}, start_ms)


def count_calls(monkeypatch: pytest.MonkeyPatch, client: MlflowClient, name: str) -> list[Any]:
    """The arguments of all calls of a client's method from now on."""
    calls: list[Any] = []
    method = getattr(client, name)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return method(*args, **kwargs)

    monkeypatch.setattr(client, name, recorded)
    return calls


def stored(sweep: TrackedSweep, runs: RunStore, key: str = KEY) -> Run:
    return sweep.client.get_run(runs.run_id(key))


def test_keys_tell_trunks_from_cells() -> None:
    assert (trunk_key("a1"), cell_key("a1")) == ("trunk a1", "cell a1")


def test_a_run_is_a_child_of_the_parent_with_its_params_and_tags(sweep: TrackedSweep) -> None:
    runs = started_runs(sweep)
    assert not ensure(runs)
    parent, run = stored(sweep, runs, SWEEP_KEY), stored(sweep, runs)
    assert run.data.params == {"train_res": "64"}
    own = {"sweep": sweep.id, "key": KEY, "role": "trunk", "epochs": "2"}
    assert own.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags
    assert (run.info.run_name, run.info.status) == ("a run", "RUNNING")
    assert run.info.start_time == runs.start_ms(KEY) == START_MS


def test_another_process_finds_the_runs_and_creates_none(sweep: TrackedSweep) -> None:
    runs = started_runs(sweep)
    ensure(runs)
    again = run_store(sweep)
    assert set(again.keys) == {SWEEP_KEY, KEY}
    assert not ensure(again, start_ms=START_MS + 1)
    assert again.run_id(KEY) == runs.run_id(KEY) and again.start_ms(KEY) == START_MS
    assert len(sweep.runs()) == 2
    runs.end(KEY)
    assert ensure(run_store(sweep))  # It has finished.
    assert stored(sweep, runs).info.status == "FINISHED"


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_was_cut_off_goes_on(sweep: TrackedSweep, status: str) -> None:
    runs = started_runs(sweep)
    ensure(runs)
    runs.end(KEY, status)
    assert not ensure(runs)
    assert stored(sweep, runs).info.status == "RUNNING"


def test_a_run_whose_parameters_were_never_written_gets_them(
    sweep: TrackedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its creator was killed between creating the run and writing its parameters."""
    runs = started_runs(sweep)
    with monkeypatch.context() as patch:
        patch.setattr(runs.client, "log_batch", lambda *_, **__: None)
        ensure(runs)
    assert not stored(sweep, runs).data.params
    ensure(run_store(sweep))
    assert stored(sweep, runs).data.params == {"train_res": "64"}


def test_deferred_points_go_with_the_next_that_are_logged(
    sweep: TrackedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = started_runs(sweep)
    ensure(runs)
    batches = count_calls(monkeypatch, runs.client, "log_batch")
    runs.defer_metrics(KEY, points({"lr": 0.1}, START_MS, 1))
    runs.defer_metrics(KEY, points({"lr": 0.2}, START_MS, 2))
    runs.defer_metrics(SWEEP_KEY, points({"load": 1.0}, START_MS, 0))
    assert not batches
    runs.log_metrics(KEY, points({"lr": 0.3}, START_MS, 3))
    assert len(batches) == 1
    assert runs.deferred_keys == [SWEEP_KEY]
    for _ in range(2):
        runs.log_metrics(SWEEP_KEY)
    assert runs.deferred_keys == []
    assert len(batches) == 2
    assert sweep.points() == {
        (KEY, "lr"): [(1, 0.1), (2, 0.2), (3, 0.3)],
        (SWEEP_KEY, "load"): [(0, 1.0)],
    }


def test_a_point_that_is_logged_again_is_there_once(sweep: TrackedSweep) -> None:
    runs = started_runs(sweep)
    for _ in range(2):
        runs.log_metrics(SWEEP_KEY, points({"lr": 0.1, "loss": 2.0}, START_MS, 1))
    assert sweep.points() == {(SWEEP_KEY, "lr"): [(1, 0.1)], (SWEEP_KEY, "loss"): [(1, 2.0)]}


def test_tags_are_there_at_once(sweep: TrackedSweep) -> None:
    runs = started_runs(sweep)
    runs.set_tags(SWEEP_KEY, {"n_val": 50, "ended": "cut"})
    assert {"n_val": "50", "ended": "cut"}.items() <= runs.tags(SWEEP_KEY).items()
    assert runs.tags(SWEEP_KEY) == run_store(sweep).tags(SWEEP_KEY)


def test_a_run_ends_with_its_deferred_points(sweep: TrackedSweep) -> None:
    runs = started_runs(sweep)
    ensure(runs)
    runs.defer_metrics(KEY, points({"lr": 0.1}, START_MS, 1))
    runs.end(KEY, "FAILED", START_MS + 5000)
    run = stored(sweep, runs)
    assert (run.info.status, run.info.end_time) == ("FAILED", START_MS + 5000)
    assert run.data.metrics == {"lr": 0.1}


def test_runs_that_are_over_stay_as_they_are(
    sweep: TrackedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = started_runs(sweep)
    for key in ("trunk a", "trunk b", "cell c"):
        ensure(runs, key)
    runs.end("trunk a", "FAILED")
    ended = count_calls(monkeypatch, runs.client, "set_terminated")
    for key in runs.keys:
        runs.end_if_running(key, "KILLED")
    keys = [SWEEP_KEY, "trunk b", "cell c"]
    assert [run_id for run_id, *_ in ended] == [runs.run_id(key) for key in keys]
    statuses = {run.data.tags["key"]: run.info.status for run in sweep.runs()}
    assert statuses == dict.fromkeys(keys, "KILLED") | {"trunk a": "FAILED"}


def test_sweeps_in_one_experiment_keep_apart(sweep: TrackedSweep) -> None:
    ensure(started_runs(sweep))
    other = RunStore(sweep.client, sweep.experiment_id, "another sweep")
    assert other.keys == []
    with pytest.raises(NoRunError, match=KEY):
        other.run_id(KEY)
