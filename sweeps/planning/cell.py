"""A cell of the grid: a trunk at one test resolution."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.fixres.cell import CellSpec
from trainables.training.trunk import TrunkSpec


def cell_label(variant: str, train_res: int, test_res: int) -> str:
    """Name a cell for people, resolutions in px: "b0 128 -> 160"."""
    return f"{variant} {train_res} -> {test_res}"


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

    @property
    def label(self) -> str:
        """The cell in words: "b0 128 -> 160"."""
        return cell_label(self.variant, self.trunk.train_res, self.test_res)
