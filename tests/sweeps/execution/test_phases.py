"""Each trial of a phase is handed to Ray Tune with the resources of its own net."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.execution import phases
from sweeps.execution.resources import ClusterResources, Gpu, NetAtRes, PhaseResources, Placement
from sweeps.execution.tasks import Phase
from sweeps.planning.grid import point_of
from sweeps.planning.options.groups import ResourceOptions
from sweeps.scheduling.cell_scheduler import cells_of
from tests.factories import HYPER, plan_of, spec_with
from trainables.data.options import ReadOptions
from trainables.ray_backend.tune_trainables import CellWork, TrialContext, TrunkWork

CONTEXT = TrialContext(
    store=Path("/s"), data=Path("/d"), images_digest="0", read=ReadOptions(), cache=Path("/c"),
)  # fmt: skip


@pytest.mark.parametrize("is_trained", [False, True])
def test_every_trial_of_a_plan_has_resources(
    monkeypatch: pytest.MonkeyPatch, is_trained: bool
) -> None:
    grid = {"variants": ("b0", "lite0"), "train_res": (64, 32), "test_res": (96, 64)}
    planned = plan_of(spec_with(**grid, test_crop_pct=(1.0,)))
    trunks = [planned.trunk(point, HYPER) for point in planned.points]
    left = cells_of(planned, [(trunk, ()) for trunk in trunks])
    handed_out: list[list[NetAtRes]] = []

    def gather(kind: object, phases: list[tuple[Phase, PhaseResources]], _: object) -> None:
        for phase, resources in phases:
            handed_out.append([])
            phase.preceded()
            while (queued := phase.queue()) is not None:
                assert resources.trial_resources[queued.net].config == {
                    "resources": {"CPU": 4, "GPU": 0.125},
                    "threads": 4,
                }
                handed_out[-1].append(queued.net)
                work = queued.work or phase.begin(queued.net)
                if isinstance(work, TrunkWork):
                    assert (work.trunk.variant, work.trunk.train_res) == queued.net
                    assert (work.reported, work.stop_after_s) == (3, 90.0)
                    assert work.rungs == planned.rungs
                else:
                    assert isinstance(work, CellWork)
                    assert work.cell.transform.test_res == queued.net[1]
                    assert work.images_at_once == 8 * work.cell.batch_size  # an eighth of 80 GB

    monkeypatch.setattr(phases, "run_trials", gather)
    cluster = ClusterResources(
        cores=32, gpus=1, gpus_per_node=1, cores_per_gpu=32, gpu=Gpu(gb=80, source="x"),
        memory_gb=16, cluster=True,
    )  # fmt: skip
    placement = Placement(options=ResourceOptions(), cluster_resources=cluster)
    points = [] if is_trained else [point_of(trunk) for trunk in trunks]
    trunk_scheduler: Any = SimpleNamespace(
        plan=planned,
        is_over=is_trained,
        val_transforms=lambda trunk: (),
        epochs_reported=lambda trunk: 3,
        queue=lambda: points.pop() if points else None,
        begin=lambda point: next(t for t in trunks if point_of(t) == point),
        allowance_s=lambda trunk: 90.0,
    )
    told: list[str] = []
    cells: Any = SimpleNamespace(
        cells=SimpleNamespace(left=len(left)), next=lambda: left.pop() if told and left else None
    )
    phases.run_phases(trunk_scheduler, cells, CONTEXT, placement, lambda: told.append("ended"))
    *of_trunks, of_cells = handed_out
    assert told == ["ended"]
    if is_trained:
        assert not of_trunks
    else:
        assert sorted(*of_trunks) == sorted((p.variant, p.train_res) for p in planned.points)
    assert sorted(of_cells) == sorted((v, r) for v in ("b0", "lite0") for r in (96, 64) * 2)
