"""The resources of a plan's trials: of its trunks, its cells, and the readings of its choice."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.execution import gpu_memory
from sweeps.execution.resources import NetAtRes, PhaseResources, Placement
from sweeps.planning.plan import Plan


def trunk_resources(plan: Plan, placement: Placement) -> PhaseResources:
    """Decide what the trunks of a plan get."""
    return PhaseResources(
        placement=placement,
        needs=gpu_memory.trunk_memory_needs(plan),
        trials=plan.trunks,
    )


def cell_resources(plan: Plan, placement: Placement, cells: int) -> PhaseResources:
    """Decide what the cells of a plan get; ``cells`` is how many are left of them."""
    return PhaseResources(
        placement=placement, needs=gpu_memory.cell_memory_needs(plan), trials=cells
    )


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
