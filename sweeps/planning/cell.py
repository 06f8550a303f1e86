"""A cell of the grid: a trunk at one test resolution and crop ratio."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.fixres.cell import CellSpec
from trainables.training.trunk import TrunkSpec


def cell_label(variant: str, train: str, test_res: int, crop_pct: float) -> str:
    """Name a cell for people: "b0 128 -> 160 px, crop 0.875".

    Args:
        train: what :func:`train_in_words` gives.
        test_res: px.
    """
    return f"{variant} {train} -> {test_res} px, crop {crop_in_words(crop_pct)}"


def train_in_words(train_res: int, parent_res: int = 0, *, untouched: bool) -> str:
    """Write a train resolution, px; "untouched" for a net that is not fine-tuned.

    Args:
        parent_res: that of the trunk that it started from, px; 0: it started from none.
    """
    if untouched:
        return "untouched"
    return f"{train_res} (from {parent_res})" if parent_res else f"{train_res}"


def trunk_in_words(trunk: TrunkSpec) -> str:
    """Name a trunk for people: "b0 at 128 px from 96, lr 0.002, repeat 1"."""
    words = f"{trunk.variant} at {trunk.train_res} px"
    if trunk.parent is not None:
        words += f" from {trunk.parent.train_res}"
    if trunk.recipe.epochs:
        words += f", lr {trunk.hyper.lr:.2g}"
    return f"{words}, repeat {trunk.repeat}" if trunk.repeat else words


def crop_in_words(crop_pct: float) -> str:
    """Write a crop ratio with as many decimals as it has, one at least and three at most."""
    words = f"{crop_pct:.3f}".rstrip("0")
    return f"{words}0" if words.endswith(".") else words


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
    def crop_pct(self) -> float:
        """The crop ratio in testing: side of the centre crop over the resized short side."""
        return self.spec.transform.crop_pct

    @property
    def label(self) -> str:
        """The cell in words: "b0 128 -> 160 px, crop 0.875"; of a repeat with its number."""
        parent_res = self.trunk.parent.train_res if self.trunk.parent else 0
        train = train_in_words(self.trunk.train_res, parent_res, untouched=self.trunk.is_untouched)
        label = cell_label(self.variant, train, self.test_res, self.crop_pct)
        return f"{label}, repeat {self.trunk.repeat}" if self.trunk.repeat else label
