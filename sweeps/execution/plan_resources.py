"""The resources of a plan's trials: of its trunks, its cells, and the readings of its choice."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.environment import on_cluster
from sweeps.execution import gpu_memory
from sweeps.execution.resources import NetAtRes, PhaseResources, Placement, expected_placement
from sweeps.execution.spreading import Spread, spread_in_words, spread_trunks
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point
from sweeps.planning.options.groups import ResourceOptions
from sweeps.planning.plan import Plan
from trainables.models.speed_ups import check_speed_ups


def check_devices(options: ResourceOptions) -> None:
    """Check that trials will have devices of the kind that the options are of.

    Raises:
        UserError: what speeds training up is of GPUs, and trials use none.
    """
    may_come = on_cluster() and options.gpus_per_trial != 0
    check_speed_ups(options.speed_ups, on_gpu=may_come or expected_placement(options).uses_gpus)


def trunk_resources(plan: Plan, placement: Placement) -> PhaseResources:
    """Decide what the trunks of a plan get."""
    return PhaseResources(
        placement=placement,
        needs=gpu_memory.trunk_memory_needs(plan),
        trials=plan.trunks,
        spread={
            (point.variant, point.train_res): spread.workers
            for point, spread in spread_of(plan, placement).items()
        },
    )


def spread_of(plan: Plan, placement: Placement) -> dict[Point, Spread]:
    """Decide which trunks of a plan are spread, by point; none unless that is asked for."""
    gpus = placement.gpus_to_spread_over
    if placement.options.workers_per_trial != "auto" or gpus < 2:
        return {}
    most, available = gpus, placement.cluster_resources
    if not available.cluster:
        most = min(gpus // (placement.options.concurrency or 1), available.cores)
    most_workers = {
        point: min(most, gpu_memory.trunk_memory_need(plan, point).max_workers)
        for point in plan.points
    }
    return spread_trunks(plan, gpus, most_workers)


def spread_line(plan: Plan, placement: Placement) -> str:
    """Say which trunks are spread, and why; empty: it is not asked for."""
    if placement.options.workers_per_trial != "auto":
        return ""
    gpus = placement.gpus_to_spread_over
    if gpus < 2:
        to_come = ", and a cluster is seen when it is joined: --cluster-gpus says what will come"
        return (
            f"nothing, over {gpus} GPU(s){to_come if placement.cluster_resources.cluster else ''}"
        )
    return spread_in_words(spread_of(plan, placement), gpus)


def cell_resources(plan: Plan, placement: Placement, cells: int) -> PhaseResources:
    """Decide what the cells of a plan get; ``cells`` is how many are left of them."""
    return PhaseResources(
        placement=placement, needs=gpu_memory.cell_memory_needs(plan), trials=cells
    )


def frozen_batch(plan: Plan, resources: PhaseResources, cell: Cell) -> int | None:
    """Decide how many images a cell's passes have on its GPU at once.

    Returns:
        None where it has none, or its memory is not known: as many as a step of training.
    """
    gpus = resources.trial_resources[cell.variant, cell.test_res].gpus
    gpu = resources.placement.cluster_resources.gpu
    if gpu is None or not gpus:
        return None
    own_gb = min(1.0, gpus) * gpu.gb
    return gpu_memory.frozen_batch(plan, cell.variant, cell.trunk.train_res, cell.test_res, own_gb)


def reading_resources(
    plan: Plan, placement: Placement, train_res: Mapping[NetAtRes, int], readings: int
) -> PhaseResources:
    """Decide what so many readings of cells get: a GPU each, as they are few.

    Args:
        train_res: of the cells' trunks, px, by variant and test resolution.
    """
    needs = {
        (variant, test_res): gpu_memory.cell_memory_need(plan, variant, trained_at, test_res)
        for (variant, test_res), trained_at in train_res.items()
    }
    return PhaseResources(placement=placement, needs=needs, trials=readings, unshared=True)
