"""Trials of a phase, through a stand-in for Tune and through the real one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from sweeps.execution import tune_runner
from sweeps.execution.resources import (
    ClusterResources,
    Gpu,
    MemoryNeed,
    NetAtRes,
    PhaseResources,
    Placement,
)
from sweeps.execution.tune_runner import Config, Phase, run_trials
from sweeps.planning.spec import ResourceOptions
from trainables.data.options import ReadOptions
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.storage.full_disk import DiskFullError

NET = ("", 0)
CONTEXT = TrialContext(
    store=Path("/s"), data=Path("/d"), images_digest="0", read=ReadOptions(), cache=Path("/c"),
    threads=1, rungs=(),
)  # fmt: skip
TWO_GPUS = ClusterResources(
    cores=8, gpus=2, gpus_per_node=2, gpu=Gpu(gb=10.0, source="here"), cluster=False
)


class Tuner:
    """Stands for Ray's: takes trials one by one, and notes what each would ask for."""

    settings: dict[str, Any]
    trials: list[tuple[Any, Any]]

    def __init__(self, trainable: Any, *, tune_config: Any, run_config: Any):
        Tuner.settings = {
            "reuse": tune_config.reuse_actors,
            "most": tune_config.max_concurrent_trials,
        }
        Tuner.trials = []
        searcher = tune_config.search_alg
        while (config := searcher.suggest(str(len(Tuner.trials)))) != "FINISHED":
            searcher.on_trial_complete(str(len(Tuner.trials)))
            Tuner.trials.append((config, trainable.default_resource_request(config)))

    def fit(self) -> None:
        pass


def test_each_trial_asks_for_the_resources_of_its_own_net(monkeypatch: pytest.MonkeyPatch) -> None:
    gb_of = {("small", 1): 2.4, ("large", 1): 9.0, ("huge", 1): 19.0}
    nets = [("small", 1), ("huge", 1), ("large", 1)]
    trials = run_with_stand_in(monkeypatch, gb_of, nets)
    (small, shared), (huge, waiting), (large, whole) = trials
    assert shared == tune.PlacementGroupFactory([{"CPU": 1, "GPU": 0.25}])
    assert whole == tune.PlacementGroupFactory([{"CPU": 1, "GPU": 1.0}])
    assert "workers" not in small and "workers" not in large
    assert huge["workers"] == 2 and huge["worker_resources"] == {"CPU": 1, "GPU": 1.0}
    assert not {"CPU", "GPU"} & set(waiting.required_resources)
    assert Tuner.settings == {"reuse": False, "most": 8}


def test_processes_are_reused_where_no_worker_waits_for_their_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_with_stand_in(monkeypatch, {("small", 1): 2.4}, [("small", 1)] * 3)
    assert Tuner.settings == {"reuse": True, "most": 8} and len(Tuner.trials) == 3


def run_with_stand_in(
    monkeypatch: pytest.MonkeyPatch,
    gb_of: dict[NetAtRes, float],
    nets: list[NetAtRes],
) -> list[tuple[Any, Any]]:
    """Run trials that need so many GB each, which workers share, on two GPUs."""
    resources = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=TWO_GPUS),
        needs={net: MemoryNeed(gb=gb.__truediv__, max_workers=4) for net, gb in gb_of.items()},
    )
    waiting = list(nets)
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, context: trainable)
    phase = Phase(
        next_config=lambda: {"net_at_res": waiting.pop(0)} if waiting else None,
        should_continue=lambda config, result: False,
        failed=lambda config, error: None,
    )
    run_trials(tune.Trainable, phase, CONTEXT, resources)
    assert [config["net_at_res"] for config, _ in Tuner.trials] == nets
    return Tuner.trials


FULL = "The disk of /out is full: free some, and the same command continues."
FULL_TRACE = f"ray::train()\ntrainables.storage.full_disk.DiskFullError: {FULL}\n"


def test_a_disk_that_is_full_for_a_trial_ends_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    fault, retried, failed = tune_runner._Fault(), list[str](), list[str]()
    phase = fault.guarded(
        Phase(
            next_config=lambda: {"name": "another"},
            should_continue=lambda config, result: True,
            failed=lambda config, trace: failed.append(trace),
            retried=lambda config, trace: retried.append(trace),
        )
    )
    phase.retried({}, "ValueError: x")
    assert retried == ["ValueError: x"] and not fault.stop_all()
    assert phase.next_config() is not None
    phase.retried({}, FULL_TRACE)
    assert fault.stop_all() and str(fault.error) == FULL
    assert retried == ["ValueError: x"]
    assert phase.next_config() is None and not phase.should_continue({}, {})


def test_what_a_callback_raises_leaves_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, context: trainable)

    def raise_full() -> Config | None:
        raise DiskFullError(FULL)

    phase = Phase(
        next_config=raise_full,
        should_continue=lambda config, result: False,
        failed=lambda config, error: None,
    )
    resources = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=TWO_GPUS),
        needs={("small", 1): MemoryNeed(gb=lambda workers: 1.0, max_workers=1)},
    )
    with pytest.raises(DiskFullError, match="is full"):
        run_trials(tune.Trainable, phase, CONTEXT, resources)
    assert Tuner.trials == []


@pytest.fixture(scope="module")
def real_ray() -> Iterator[None]:
    """Start Ray on loopback, for this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        patch.setenv("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=1,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100_000_000,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3])}},
        )
        yield
        ray.shutdown()


class Fragile(tune.Trainable):
    """A trial that ends its process once, where its name says so."""

    def setup(self, config: Config, context: TrialContext | None = None) -> None:
        self.config = config

    def reset_config(self, new_config: Config) -> bool:
        self._end_in("reset", new_config)
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        self._end_in("step", self.config)
        if self.config["name"] == "full":
            raise DiskFullError(FULL)
        if self.config["name"] == "broken":
            raise ValueError("of no use. At all.")
        return {"name": self.config["name"], "done": True}

    def _end_in(self, where: str, config: Config) -> None:
        if config["name"] == where and not config["mark"].exists():
            config["mark"].touch()
            os._exit(1)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


def run(folder: Path, names: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Run trials; return the names of those that ended, were given up, and were tried again."""
    waiting, ended, failed, retried = list(names), [], [], []

    def next_config() -> Config | None:
        if not waiting:
            return None
        name = waiting.pop(0)
        return {"net_at_res": NET, "name": name, "mark": folder / name}

    def should_continue(config: Config, result: dict[str, Any]) -> bool:
        ended.append(result["name"])
        return False

    phase = Phase(
        next_config=next_config,
        should_continue=should_continue,
        failed=lambda config, trace: failed.append(config["name"]),
        retried=lambda config, trace: retried.append(config["name"]),
    )
    one_core = ClusterResources(cores=1, gpus=0, gpus_per_node=0, gpu=None, cluster=False)
    need = MemoryNeed(gb=lambda workers: 0.1, max_workers=1)
    resources = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=one_core),
        needs={NET: need},
    )
    context = TrialContext(
        store=folder, data=folder, images_digest="", read=ReadOptions(), cache=folder, rungs=()
    )
    run_trials(Fragile, phase, context, resources)
    return sorted(set(ended)), failed, retried


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
def test_a_full_disk_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="The disk of /out is full: free some"):
        run(tmp_path, ["full", "never begun"])


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
def test_a_trial_is_tried_again_wherever_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends in a step or while it is reset for the next trial; not for ever."""
    monkeypatch.setattr(tune_runner, "MAX_FAILURES_WITHOUT_PROGRESS", 2)
    ended, failed, retried = run(tmp_path, ["first", "broken", "step", "second", "reset"])
    assert ended == ["first", "reset", "second", "step"] and failed == ["broken"]
    assert retried == ["broken", "broken", "step", "reset"]
