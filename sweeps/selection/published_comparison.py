"""Compare measured rows with the published figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.planning.published import PUBLISHED, Published
from sweeps.planning.recipes import RECIPES
from sweeps.planning.spec import SweepSpec
from sweeps.selection.leaderboard import Row
from trainables.fixres.arms import rank


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published net and the best row measured at its resolutions."""

    published: Published
    row: Row  # has the arm, the split and n

    @property
    def top1(self) -> float:
        """The measured top-1, in %: cross-fitted where val picked the classifier."""
        return 100 * self.row.ranked_top1

    @property
    def gap(self) -> float:
        """Measured minus published top-1, in points."""
        return self.top1 - self.published.fix_top1


def compare_with_published(rows: Sequence[Row], *, split: str = "val") -> list[Comparison]:
    """Compare each variant that has rows at its published resolutions, in the table's order.

    The best row over all arms and trunks is compared; of equal ones that of the cheaper arm.
    """
    comparisons = []
    for figures in PUBLISHED.values():
        key = (figures.variant, figures.train_res, figures.test_res, split)
        own = [r for r in rows if (r.variant, r.train_res, r.test_res, r.split) == key]
        if own:
            best = max(own, key=lambda r: (r.ranked_top1, -rank(r.arm)))
            comparisons.append(Comparison(published=figures, row=best))
    return comparisons


def comparisons_of_recipe(spec: SweepSpec, rows: Sequence[Row], chosen: Row) -> list[Comparison]:
    """Compare with the published figures if the sweep follows a published recipe, else not at all.

    Only then are the images those of the figures. Rows at other crop ratios than the recipe's are
    left out. Where a part of train picks, val is of images that the weights have seen in their
    pretraining, so that test alone compares, which is read for the chosen row.
    """
    if spec.grid.recipe == "own":
        return []
    crops = RECIPES[spec.grid.recipe]().fix.test_crop_pct
    own = [r for r in rows if r.crop_pct in crops]
    if spec.images.pick_share is None:
        return compare_with_published(own)
    return compare_with_published([r for r in own if r.arm == chosen.arm], split="test")
