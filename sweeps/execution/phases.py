"""Run the trials of a phase through Ray Tune: hand out, report, judge."""

from __future__ import annotations

import json
from typing import Any

from sweeps.execution import gpu_memory
from sweeps.execution.resources import Placement, Room
from sweeps.execution.tune_runner import Config, Phase, run_trials
from sweeps.scheduling.cell_scheduler import CellDesk
from sweeps.scheduling.trunk_scheduler import TrunkDirector
from trainables.fixres.cell import arm_result
from trainables.ray_backend.tune_trainables import CellTrial, TrialContext, TrunkTrial
from trainables.training.trunk import epoch_report


def run_trunks(director: TrunkDirector, context: TrialContext, placement: Placement) -> None:
    """Phase 1, to its end."""

    def give() -> Config | None:
        trunk = director.next()
        if trunk is None:
            return None
        size = (trunk.variant, trunk.train_res)
        return {"size": size, "trunk": trunk, "scored": director.scored(trunk)}

    def goes_on(config: Config, result: dict[str, Any]) -> bool:
        return director.report(config["trunk"], epoch_report(json.loads(result["report"])))

    phase = Phase(
        give=give,
        goes_on=goes_on,
        failed=lambda config, error: director.failed(config["trunk"], error),
        retried=lambda config, error: director.retried(config["trunk"], error),
    )
    room = Room(placement=placement, needs=gpu_memory.of_trunks(director.plan))
    run_trials(TrunkTrial, phase, context, room)


def run_cells(desk: CellDesk, context: TrialContext, placement: Placement) -> None:
    """Phase 2, to its end."""

    def give() -> Config | None:
        cell = desk.next()
        if cell is None:
            return None
        return {"size": (desk.variant(cell.key), cell.test_res), "cell": cell}

    def goes_on(config: Config, result: dict[str, Any]) -> bool:
        desk.take(config["cell"].key, [arm_result(r) for r in json.loads(result["results"])])
        return False

    phase = Phase(
        give=give,
        goes_on=goes_on,
        failed=lambda config, error: desk.failed(config["cell"].key, error),
        retried=lambda config, error: desk.retried(config["cell"].key, error),
    )
    room = Room(placement=placement, needs=gpu_memory.of_cells(desk.plan))
    run_trials(CellTrial, phase, context, room)
