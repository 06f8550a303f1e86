"""Where the sets of the choice are read, and what is asked for where that is not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.execution.resources import (
    ClusterResources,
    Gpu,
    NetAtRes,
    PhaseResources,
    Placement,
)
from sweeps.final_model import reading_trials
from sweeps.final_model.reading_trials import reader
from sweeps.planning.options.groups import ResourceOptions
from tests.factories import HYPER, plan_of, spec_with
from trainables.errors import SweepError
from trainables.fixres.held_out_score import Reading
from trainables.ray_backend.tune_trainables import ReadingWork
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json

PLAN = plan_of(spec_with(train_res=(64,), test_res=(96,)))
CELL = PLAN.cell(PLAN.trunk(PLAN.points[0], HYPER), 6, 96, 1.0)
UNTOUCHED = PLAN.cell(PLAN.untouched_trunk("b0"), 0, 416, 1.0)
READINGS = [
    Reading(cell=CELL.spec, arms=("fix", "none"), name=name, digest="d")
    for name in ("test", "v2", "val")
]
CONTEXT: Any = "the context of trials"
IMAGES: Any = "images"
# A head without a GPU, beside nodes with two each.
CLUSTER = ClusterResources(
    cores=16, gpus=4, gpus_per_node=2, gpu=Gpu(gb=24, source="x"), memory_gb=16, cluster=True
)


class Trials:
    """Stands for Ray: takes works, and fails those of the sets that are named."""

    def __init__(self, fail: str = ""):
        self.fail, self.works = fail, list[tuple[NetAtRes, ReadingWork]]()
        self.resources: PhaseResources | None = None

    def run(
        self,
        works: Sequence[tuple[NetAtRes, ReadingWork]],
        resources: PhaseResources,
        context: object,
        told: Callable[[dict[str, Any]], bool],
    ) -> list[str | None]:
        assert context is CONTEXT
        self.works += works
        self.resources = resources
        failed = [work.reading.name == self.fail for _, work in works]
        assert not any(told({"done": True}) for is_failed in failed if not is_failed)
        return ["Traceback:\nRuntimeError: no luck" if is_failed else None for is_failed in failed]


def read(
    trials: Trials,
    patch: pytest.MonkeyPatch,
    root: Path,
    readings: Sequence[Reading] = READINGS,
    **options: Any,
) -> list[Any]:
    store = Store(root)
    for trunk in (CELL.trunk, UNTOUCHED.trunk):
        write_json(store.trunk(trunk.key) / "spec.json", trunk)
    told: list[tuple[int, int]] = []
    placement = Placement(options=ResourceOptions(**options), cluster_resources=CLUSTER)
    cluster: Any = SimpleNamespace(placement=placement)
    patch.setattr(reading_trials, "run_works", trials.run)
    read_all = reader(PLAN, IMAGES, store, CONTEXT, cluster, lambda *count: told.append(count))
    read_all(readings)
    return told


def test_on_a_cluster_each_set_is_a_trial_that_has_a_gpu_to_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The head, where the driver runs, forwards no image."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(reading_trials, "read_here", None)
    trials = Trials()
    assert read(trials, monkeypatch, tmp_path) == [(1, 3), (2, 3), (3, 3)]
    assert [work.reading for _, work in trials.works] == READINGS
    assert trials.resources is not None
    (trial,) = trials.resources.trial_resources.values()
    assert (trial.gpus, trial.workers) == (1.0, 1)
    assert trials.resources.concurrency is None  # as many as the cluster takes


def test_each_reading_gets_what_its_own_net_needs_at_its_own_resolution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    baseline = Reading(cell=UNTOUCHED.spec, arms=("fix",), name="test", digest="d", baseline=True)
    trials = Trials()
    assert read(trials, monkeypatch, tmp_path, [*READINGS, baseline])[-1] == (4, 4)
    nets = [net for net, _ in trials.works]
    assert nets == [("b0", 96)] * 3 + [("b0", 416)]
    assert trials.resources is not None and set(trials.resources.needs) == set(nets)
    gb = {net: need.gb(1) for net, need in trials.resources.needs.items()}
    assert gb["b0", 416] > gb["b0", 96]
    assert {trial.gpus for trial in trials.resources.trial_resources.values()} == {1.0}


def test_a_share_of_a_gpu_that_is_given_holds_for_readings_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    trials = Trials()
    read(trials, monkeypatch, tmp_path, gpus_per_trial=0.25, concurrency=2)
    assert trials.resources is not None and trials.resources.concurrency == 2
    assert [t.gpus for t in trials.resources.trial_resources.values()] == [0.25]


def test_a_reading_whose_trials_fail_ends_the_sweep_by_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(SweepError, match=r"^The reading of v2 failed: RuntimeError: no luck \(the"):
        read(Trials(fail="v2"), monkeypatch, tmp_path)
    assert "no luck" in (Store(tmp_path).cell(CELL.key) / "error.txt").read_text()


def test_without_a_cluster_the_driver_reads_and_no_ray_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made: list[Any] = []
    monkeypatch.setattr(reading_trials, "read_here", lambda *given: made.append(given))
    reader(PLAN, IMAGES, Store(tmp_path), CONTEXT, None, print)  # type: ignore[arg-type]
    assert made == [(PLAN, IMAGES, Store(tmp_path))]
