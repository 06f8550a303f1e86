"""Connect the scheduler of each phase to Ray Tune: hand out trials, and report results."""

from __future__ import annotations

import json
from typing import Any

from sweeps.execution import gpu_memory
from sweeps.execution.resources import PhaseResources, Placement
from sweeps.execution.tune_runner import Config, Phase, run_trials
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from trainables.fixres.cell import arm_result_from_json
from trainables.ray_backend.tune_trainables import CellTrainable, TrialContext, TrunkTrainable
from trainables.training.trunk import epoch_report_from_json


def run_trunks(
    trunk_scheduler: TrunkScheduler, context: TrialContext, placement: Placement
) -> None:
    """Run phase 1 to its end: train the trunks that the scheduler hands out."""

    def next_config() -> Config | None:
        trunk = trunk_scheduler.next()
        if trunk is None:
            return None
        return {
            "net_at_res": (trunk.variant, trunk.train_res),
            "trunk": trunk,
            "val_transforms": trunk_scheduler.val_transforms(trunk),
        }

    def should_continue(config: Config, result: dict[str, Any]) -> bool:
        return trunk_scheduler.report(
            config["trunk"], epoch_report_from_json(json.loads(result["report"]))
        )

    phase = Phase(
        next_config=next_config,
        should_continue=should_continue,
        failed=lambda config, error: trunk_scheduler.failed(config["trunk"], error),
        retried=lambda config, error: trunk_scheduler.retried(config["trunk"], error),
    )
    phase_resources = PhaseResources(
        placement=placement, needs=gpu_memory.trunk_memory_needs(trunk_scheduler.plan)
    )
    run_trials(TrunkTrainable, phase, context, phase_resources)


def run_cells(cell_scheduler: CellScheduler, context: TrialContext, placement: Placement) -> None:
    """Run phase 2 to its end: adapt the trunks in the cells that the scheduler hands out."""

    def next_config() -> Config | None:
        cell = cell_scheduler.next()
        if cell is None:
            return None
        return {"net_at_res": (cell.variant, cell.test_res), "cell": cell.spec}

    def should_continue(config: Config, result: dict[str, Any]) -> bool:
        cell_scheduler.take(
            config["cell"].key, [arm_result_from_json(r) for r in json.loads(result["results"])]
        )
        return False

    phase = Phase(
        next_config=next_config,
        should_continue=should_continue,
        failed=lambda config, error: cell_scheduler.failed(config["cell"].key, error),
        retried=lambda config, error: cell_scheduler.retried(config["cell"].key, error),
    )
    phase_resources = PhaseResources(
        placement=placement, needs=gpu_memory.cell_memory_needs(cell_scheduler.plan)
    )
    run_trials(CellTrainable, phase, context, phase_resources)
