"""The resources of a plan's trials: of its trunks, its cells, and the readings of its choice."""

from __future__ import annotations

from sweeps.execution import gpu_memory
from sweeps.execution.resources import PhaseResources, Placement
from sweeps.planning.cell import Cell
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


def reading_resources(plan: Plan, placement: Placement, cell: Cell, sets: int) -> PhaseResources:
    """Decide what the readings of a cell on so many sets get: a GPU each, as they are few."""
    need = gpu_memory.cell_memory_need(plan, cell.variant, cell.trunk.train_res, cell.test_res)
    return PhaseResources(
        placement=placement,
        needs={(cell.variant, cell.test_res): need},
        trials=sets,
        unshared=True,
    )
