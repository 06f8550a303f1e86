"""What trials need of a GPU, by what a sweep asks for; and that it reaches Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from sweeps.execution import gpu_memory, phases, tune_runner
from sweeps.execution.resources import (
    ClusterResources,
    Gpu,
    MemoryNeed,
    NetAtRes,
    PhaseResources,
    Placement,
)
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from sweeps.planning.spec import ResourceOptions
from sweeps.scheduling.cell_scheduler import cells_of
from sweeps.terminal.plan_tables import plan_view
from tests.factories import HYPER, file_console, output_of, plan_of, spec_with
from trainables.data.options import ReadOptions
from trainables.profiling.training_memory import cell_bytes, forward_bytes, needed_gb, step_bytes
from trainables.ray_backend.tune_trainables import TrialContext

STEP: dict[str, Any] = {
    "batch": 32, "classes": 3, "precision": "bf16", "optimizer": "adamw", "ema": False,
}  # fmt: skip
FORWARD: dict[str, Any] = {"batch": 32, "classes": 3, "precision": "bf16"}
CONTEXT: Any = TrialContext(
    store=Path("/s"), data=Path("/d"), images_digest="0", read=ReadOptions(), cache=Path("/c"),
    threads=1, rungs=(),
)  # fmt: skip
MACHINES = ClusterResources(
    cores=8, gpus=2, gpus_per_node=2, gpu=Gpu(gb=10.0, source="here"), cluster=False
)


def plan(**options: Any) -> Plan:
    return plan_of(spec_with(**{"train_res": (64, 96), "test_res": (96,), **options}))


# --- needs ------------------------------------------------------------------------------------


def test_a_trunk_needs_what_its_step_does() -> None:
    found = gpu_memory.of_trunks(plan())
    assert set(found) == {("b0", 64), ("b0", 96)}
    for (variant, res), need in found.items():
        assert need.gb(1) == needed_gb(step_bytes(variant, res, **STEP))
        assert need.gb(4) == needed_gb(step_bytes(variant, res, **{**STEP, "batch": 8}))
        assert need.gb(5) == needed_gb(step_bytes(variant, res, **{**STEP, "batch": 7}))
        assert need.max_workers == 16


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd"}),
        ({"ema_decay": 0.99}, {"ema": True}),
        ({"batch_size": 7}, {"batch": 7}),
    ],
)
def test_the_recipe_counts(options: dict[str, Any], step: dict[str, Any]) -> None:
    found = gpu_memory.of_trunks(plan(**options))["b0", 64].gb(1)
    assert found == needed_gb(step_bytes("b0", 64, **{**STEP, **step}))


def test_scoring_far_above_the_train_resolution_takes_more_than_training() -> None:
    found = gpu_memory.of_trunks(plan(train_res=(32,), test_res=(32, 256)))["b0", 32].gb(1)
    assert found == needed_gb(forward_bytes("b0", 256, **FORWARD))
    assert found > needed_gb(step_bytes("b0", 32, **STEP))


def test_an_untrained_trunk_is_only_scored_and_by_one_worker() -> None:
    need = gpu_memory.of_trunk(plan(epochs=0), Point(variant="b0", train_res=96))
    assert need.gb(1) == needed_gb(forward_bytes("b0", 96, **FORWARD))
    assert need.max_workers == 1


def test_a_cell_keeps_the_features_that_its_arms_are_fitted_on() -> None:
    def features(**options: Any) -> float:
        arms = {"train_res": (64,), "arms": ("crop1", "bn"), **options}
        return gpu_memory.of_cells(plan_of(spec_with(**arms, test_res=(64,)), train=10**6))[
            "b0", 64
        ].gb(1)

    assert features() == needed_gb(cell_bytes("b0", 64, **FORWARD, features=50, settings=0))
    assert features(arms=("fix",)) == needed_gb(
        cell_bytes("b0", 64, **FORWARD, features=10**6 + 50, settings=10)
    )
    assert features(arms=("fix", "fix_aug"), views=3) == needed_gb(
        cell_bytes("b0", 64, **FORWARD, features=3 * 10**6 + 50, settings=10)
    )


def test_a_cell_that_looks_at_the_train_resolution_needs_room_for_it() -> None:
    small = {"test_res": (64,), "train_res": (64, 256)}
    plain = gpu_memory.of_cells(plan(**small, arms=("crop1",)))
    frechet = gpu_memory.of_cells(plan(**small, arms=("frechet",)))
    assert set(plain) == set(frechet) == {("b0", 64)}
    assert frechet["b0", 64].gb(1) == needed_gb(forward_bytes("b0", 256, **FORWARD))
    assert plain["b0", 64].gb(1) < frechet["b0", 64].gb(1)
    assert plain["b0", 64].max_workers == 1


# --- to Ray -----------------------------------------------------------------------------------


class Tuner:
    """Stands for Ray's: asks for trials one by one, and what each would ask for."""

    given: dict[str, Any]
    asked: list[tuple[Any, Any]]

    def __init__(self, trainable: Any, *, tune_config: Any, run_config: Any):
        Tuner.given = {"reuse": tune_config.reuse_actors, "most": tune_config.max_concurrent_trials}
        Tuner.asked = []
        feed = tune_config.search_alg
        while (config := feed.suggest(str(len(Tuner.asked)))) != "FINISHED":
            feed.on_trial_complete(str(len(Tuner.asked)))
            Tuner.asked.append((config, trainable.default_resource_request(config)))

    def fit(self) -> None:
        pass


def test_each_trial_asks_for_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {("small", 1): 2.4, ("large", 1): 9.0, ("huge", 1): 19.0}
    sizes = [("small", 1), ("huge", 1), ("large", 1)]
    told = run(monkeypatch, given, sizes)
    (small, ask), (huge, alone), (large, whole) = told
    assert ask == tune.PlacementGroupFactory([{"CPU": 1, "GPU": 0.25}])
    assert whole == tune.PlacementGroupFactory([{"CPU": 1, "GPU": 1.0}])
    assert "workers" not in small and "workers" not in large
    assert huge["workers"] == 2 and huge["worker_resources"] == {"CPU": 1, "GPU": 1.0}
    assert not {"CPU", "GPU"} & set(alone.required_resources)
    assert Tuner.given == {"reuse": False, "most": 8}


def test_processes_are_reused_where_no_worker_waits_for_their_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(monkeypatch, {("small", 1): 2.4}, [("small", 1)] * 3)
    assert Tuner.given == {"reuse": True, "most": 8} and len(Tuner.asked) == 3


def run(
    monkeypatch: pytest.MonkeyPatch,
    given: dict[NetAtRes, float],
    sizes: list[NetAtRes],
) -> list[tuple[Any, Any]]:
    """Trials of needs in GB, which workers share, on MACHINES."""
    room = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=MACHINES),
        needs={size: MemoryNeed(gb=gb.__truediv__, max_workers=4) for size, gb in given.items()},
    )
    waiting = list(sizes)
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, context: trainable)
    phase = tune_runner.Phase(
        next_config=lambda: {"size": waiting.pop(0)} if waiting else None,
        should_continue=lambda config, result: False,
        failed=lambda config, error: None,
    )
    tune_runner.run_trials(tune.Trainable, phase, CONTEXT, room)
    assert [config["size"] for config, _ in Tuner.asked] == sizes
    return Tuner.asked


@pytest.mark.parametrize("phase", ["trunks", "cells"])
def test_every_trial_of_a_plan_has_its_place(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    planned = plan(variants=("b0", "lite0"), train_res=(64, 32), test_res=(96, 64))
    trunks = [planned.trunk(point, HYPER) for point in planned.points]
    cells = cells_of(planned, [(trunk, ()) for trunk in trunks])
    sizes: list[NetAtRes] = []

    def gather(kind: object, phase: tune_runner.Phase, _: object, room: PhaseResources) -> None:
        while (config := phase.next_config()) is not None:
            told = room.trial_resources[config["size"]].config
            assert told == {"resources": {"CPU": 4, "GPU": 0.125}}
            sizes.append(config["size"])

    monkeypatch.setattr(phases, "run_trials", gather)
    there = ClusterResources(
        cores=32, gpus=1, gpus_per_node=1, gpu=Gpu(gb=80, source="x"), cluster=True
    )
    placement = Placement(options=ResourceOptions(), cluster_resources=there)
    if phase == "trunks":
        director: Any = SimpleNamespace(
            plan=planned,
            val_transforms=lambda trunk: (),
            next=lambda: trunks.pop() if trunks else None,
        )
        phases.run_trunks(director, CONTEXT, placement)
        assert sorted(sizes) == sorted((p.variant, p.train_res) for p in planned.points)
        return
    desk: Any = SimpleNamespace(plan=planned, next=lambda: cells.pop() if cells else None)
    phases.run_cells(desk, CONTEXT, placement)
    assert sorted(sizes) == sorted((v, r) for v in ("b0", "lite0") for r in (96, 64) * 2)


# --- in the plan ------------------------------------------------------------------------------


def shown(**options: Any) -> str:
    console = file_console()
    console.print(plan_view(plan(**options)))
    return output_of(console)


def test_the_plan_says_what_a_trunk_takes_of_a_gpu() -> None:
    gb = gpu_memory.of_trunks(plan())["b0", 96].gb(1)
    assert "GPU" not in shown()
    few = shown(gpu_memory_gb=3.5 * gb)
    assert f"{3.5 * gb:.1f} GB each (--gpu-memory-gb)" in few and f"{gb:.1f} on 1/3" in few
    assert f"{gb:.1f} on 0.7" in shown(gpu_memory_gb=3 * gb, gpus_per_trial=0.7)
    assert "*" not in few


def test_the_plan_says_what_does_not_fit() -> None:
    found = gpu_memory.of_trunks(plan())["b0", 96].gb
    small = shown(gpu_memory_gb=0.9 * found(1))
    assert f"{found(1):.1f} on 1 *" in small and "steps are split" in small
    spread = shown(gpu_memory_gb=0.9 * found(1), workers_per_trial=4)
    assert f"{found(4):.1f} on each of 4" in spread
