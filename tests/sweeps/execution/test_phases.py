"""Each trial of a phase is handed to Ray Tune with the resources of its own net."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.execution import phases
from sweeps.execution.resources import ClusterResources, Gpu, NetAtRes, PhaseResources, Placement
from sweeps.execution.tune_runner import Phase
from sweeps.planning.grid import point_of
from sweeps.planning.options.groups import ResourceOptions
from sweeps.scheduling.cell_scheduler import cells_of
from tests.factories import HYPER, plan_of, spec_with
from trainables.data.options import ReadOptions
from trainables.ray_backend.tune_trainables import CellWork, TrialContext, TrunkWork

CONTEXT = TrialContext(
    store=Path("/s"), data=Path("/d"), images_digest="0", read=ReadOptions(), cache=Path("/c"),
    rungs=(),
)  # fmt: skip


@pytest.mark.parametrize("phase", ["trunks", "cells"])
def test_every_trial_of_a_plan_has_resources(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    grid = {"variants": ("b0", "lite0"), "train_res": (64, 32), "test_res": (96, 64)}
    planned = plan_of(spec_with(**grid, test_crop_pct=(1.0,)))
    trunks = [planned.trunk(point, HYPER) for point in planned.points]
    cells = cells_of(planned, [(trunk, ()) for trunk in trunks])
    handed_out: list[NetAtRes] = []

    def gather(kind: object, phase: Phase, _: object, resources: PhaseResources) -> None:
        while (queued := phase.queue()) is not None:
            config_of_resources = resources.trial_resources[queued.net].config
            assert config_of_resources == {
                "resources": {"CPU": 4, "GPU": 0.125},
                "threads": 4,
            }
            handed_out.append(queued.net)
            work = queued.work or phase.begin(queued.net)
            if isinstance(work, TrunkWork):
                assert (work.trunk.variant, work.trunk.train_res) == queued.net
                assert (work.reported, work.stop_after_s) == (3, 90.0)
            else:
                assert isinstance(work, CellWork) and work.cell.transform.test_res == queued.net[1]

    monkeypatch.setattr(phases, "run_trials", gather)
    cluster = ClusterResources(
        cores=32, gpus=1, gpus_per_node=1, gpu=Gpu(gb=80, source="x"), memory_gb=16, cluster=True
    )
    placement = Placement(options=ResourceOptions(), cluster_resources=cluster)
    if phase == "trunks":
        points = [point_of(trunk) for trunk in trunks]
        trunk_scheduler: Any = SimpleNamespace(
            plan=planned,
            val_transforms=lambda trunk: (),
            epochs_reported=lambda trunk: 3,
            queue=lambda: points.pop() if points else None,
            begin=lambda point: next(t for t in trunks if point_of(t) == point),
            allowance_s=lambda trunk: 90.0,
        )
        phases.run_trunks(trunk_scheduler, CONTEXT, placement)
        assert sorted(handed_out) == sorted((p.variant, p.train_res) for p in planned.points)
        return
    cell_scheduler: Any = SimpleNamespace(
        plan=planned, left=len(cells), next=lambda: cells.pop() if cells else None
    )
    phases.run_cells(cell_scheduler, CONTEXT, placement)
    assert sorted(handed_out) == sorted((v, r) for v in ("b0", "lite0") for r in (96, 64) * 2)
