"""Trials through the real Tune, some of whose processes end when they should not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from sweeps.execution import tune_runner
from sweeps.execution.resources import ClusterResources, MemoryNeed, PhaseResources, Placement
from sweeps.execution.tune_runner import Config, Phase, run_trials
from sweeps.planning.spec import ResourceOptions
from trainables.data.options import ReadOptions
from trainables.ray_backend.tune_trainables import TrialContext

pytestmark = pytest.mark.slow
SIZE = ("", 0)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """On loopback, of this process alone."""
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
    """Ends its process once where its name says so."""

    def setup(self, config: Config, context: TrialContext | None = None) -> None:
        self.config = config

    def reset_config(self, new_config: Config) -> bool:
        self._end_in("reset", new_config)
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        self._end_in("step", self.config)
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
    """Names of those that came to an end, of those given up, and of those tried again."""
    waiting, ended, failed, retried = list(names), [], [], []

    def give() -> Config | None:
        if not waiting:
            return None
        name = waiting.pop(0)
        return {"size": SIZE, "name": name, "mark": folder / name}

    def goes_on(config: Config, result: dict[str, Any]) -> bool:
        ended.append(result["name"])
        return False

    phase = Phase(
        next_config=give,
        should_continue=goes_on,
        failed=lambda config, trace: failed.append(config["name"]),
        retried=lambda config, trace: retried.append(config["name"]),
    )
    machines = ClusterResources(cores=1, gpus=0, gpus_per_node=0, gpu=None, cluster=False)
    need = MemoryNeed(gb=lambda workers: 0.1, max_workers=1)
    room = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=machines),
        needs={SIZE: need},
    )
    context = TrialContext(
        store=folder, data=folder, images_digest="", read=ReadOptions(), cache=folder, rungs=()
    )
    run_trials(Fragile, phase, context, room)
    return sorted(set(ended)), failed, retried


def test_a_trial_is_tried_again_wherever_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its work, or while it is made ready for the next, even for the last; not for ever."""
    monkeypatch.setattr(tune_runner, "MAX_FAILURES_WITHOUT_PROGRESS", 2)
    ended, failed, retried = run(tmp_path, ["first", "broken", "step", "second", "reset"])
    assert ended == ["first", "reset", "second", "step"] and failed == ["broken"]
    assert retried == ["broken", "broken", "step", "reset"]
