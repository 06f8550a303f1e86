"""What is handed over of a choice: the chosen row's own net, or its refit."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row
from trainables.fixres.cell import CellSpec


@dataclass(frozen=True, kw_only=True)
class Served:
    """A trunk as one arm of one cell adapted it."""

    trunk: str  # key in the store
    cell: CellSpec
    arm: str
    epochs: int  # that the trunk was trained
    refit: bool  # on train + val


def as_swept(plan: Plan, row: Row) -> Served:
    """The chosen row's own net."""
    return Served(
        trunk=row.trunk,
        cell=plan.cell(row.variant, row.trunk, row.test_res),
        arm=row.arm,
        epochs=row.trunk_epochs,
        refit=False,
    )
