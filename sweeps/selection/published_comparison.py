"""What was measured beside the published figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.planning.published import PUBLISHED, Published
from sweeps.planning.spec import SweepSpec
from sweeps.selection.leaderboard import Row
from trainables.fixres.arms import rank


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published net and the best row measured at its resolutions."""

    published: Published
    row: Row  # says the arm, the split and n

    @property
    def top1(self) -> float:
        """Measured, in %."""
        return 100 * self.row.top1

    @property
    def gap(self) -> float:
        """Measured less published top-1, in points."""
        return self.top1 - self.published.fix_top1


def compare_with_published(rows: Sequence[Row], *, split: str = "val") -> list[Comparison]:
    """A comparison for each variant with rows at its published resolutions, in the table's order.

    The best row over all arms and trunks; of equal ones the cheaper arm's.
    """
    compared = []
    for one in PUBLISHED.values():
        place = (one.variant, one.train_res, one.test_res, split)
        own = [r for r in rows if (r.variant, r.train_res, r.test_res, r.split) == place]
        if own:
            best = max(own, key=lambda r: (r.top1, -rank(r.arm)))
            compared.append(Comparison(published=one, row=best))
    return compared


def comparisons_of_recipe(spec: SweepSpec, rows: Sequence[Row]) -> list[Comparison]:
    """Beside the published figures, where the images may be theirs: under a published recipe.

    The arm none has a crop of its own, not the published one.
    """
    return (
        []
        if spec.grid.recipe == "own"
        else compare_with_published([r for r in rows if r.arm != "none"])
    )
