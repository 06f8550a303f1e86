"""A cell of the grid: a trunk at one test resolution."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.fixres.cell import CellSpec
from trainables.training.trunk import TrunkSpec


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the grid, with the trunk that it adapts."""

    spec: CellSpec
    trunk: TrunkSpec
    trunk_epochs: int
    """Epochs that the trunk has been trained: fewer than its recipe's if ASHA cut it."""

    @property
    def key(self) -> str:
        """The key of the cell's results in the store."""
        return self.spec.key

    @property
    def variant(self) -> str:
        """The variant of the trunk."""
        return self.trunk.variant

    @property
    def test_res(self) -> int:
        """The test resolution, px."""
        return self.spec.test_res
