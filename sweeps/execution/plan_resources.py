"""The resources of a plan's trials: those of its trunks, and those of its cells."""

from __future__ import annotations

from sweeps.execution import gpu_memory
from sweeps.execution.resources import PhaseResources, Placement
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
