"""What a sweep spent, and what it would have spent had it shared nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sweeps.events.event_types import CellEnded, TrunkEnded
from sweeps.events.recorders import History
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_images, image_passes
from sweeps.selection.leaderboard import Row
from trainables.fixres.adapted_net import serving_transform
from trainables.fixres.arms import ARMS, rank
from trainables.training.trunk import trained_epochs

_HEADS = ("fix", "fix_aug")  # arms whose classifier is fitted on features of the frozen net


@dataclass(frozen=True, kw_only=True)
class ImagePasses:
    """Through the net."""

    planned: int  # at most
    done: int


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Seconds are those of trials, added up: of trials side by side each counts.

    What was saved is estimated, against a grid of one trial a cell: each cell trains its own trunk,
    by the same hyperparameters and under the same cuts, and runs the net over train and val for
    every (classifier setting, epoch) pair that was tried.
    """

    trunks: int  # that ended, in whatever way
    cut: int  # of these, by ASHA
    cells: int  # that were adapted
    trained_s: float  # phase 1: the epochs of all trunks, or the scoring of untrained ones
    adapted_s: float  # phase 2: all arms of all cells
    read_s: float  # the sets that nothing was chosen on
    undone_s: float  # that the cut trunks would have taken to their end, estimated
    saved_trunks_s: float  # a trunk is trained once, not once a test resolution
    saved_images: int  # a cell takes its passes once, not once a pair
    saved_passes_s: float | None  # the same as time; None: no pass was timed by itself
    images: Mapping[
        str, ImagePasses
    ]  # by what they are for, as in sweeps.planning.workload.image_passes
    price_per_hour: float | None  # of one trial's machine, in any currency

    @property
    def spent_s(self) -> float:
        return self.trained_s + self.adapted_s + self.read_s

    @property
    def alone_s(self) -> float:
        """What one trial a cell would have taken, as far as it can be said."""
        return self.spent_s + self.saved_trunks_s + (self.saved_passes_s or 0.0)

    def money(self, seconds: float) -> float | None:
        """What so many seconds of a trial cost; None without a price."""
        return None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour


def build_ledger(
    plan: Plan, history: History, rows: Sequence[Row], price_per_hour: float | None
) -> Ledger:
    """
    Args:
        rows: of all splits; those of val are phase 2's, the others were read after the choice.
    """
    trunks = list(history.trunks.values())
    cells = [cell for cell in history.cells.values() if cell.rows]
    passes = [_saved_passes(plan, cell) for cell in cells]
    seconds = [s for _, s in passes]
    return Ledger(
        trunks=len(trunks),
        cut=sum(t.why == "cut" for t in trunks),
        cells=len(cells),
        trained_s=sum(r.seconds for t in trunks for r in t.reports),
        adapted_s=sum(r.seconds for r in rows if r.split == "val"),
        read_s=sum(r.seconds for r in rows if r.split != "val"),
        undone_s=sum(map(_undone, trunks)),
        saved_trunks_s=sum(_saved_training(plan, t) for t in trunks),
        saved_images=sum(images for images, _ in passes),
        saved_passes_s=None if None in seconds else sum(s for s in seconds if s is not None),
        images=_images(plan, trunks, cells),
        price_per_hour=price_per_hour,
    )


def _undone(trunk: TrunkEnded) -> float:
    """Seconds that a cut trunk had before it, by the mean of its own epochs."""
    if trunk.why != "cut" or not trunk.reports:
        return 0.0
    left = trunk.trunk.recipe.epochs - trained_epochs(trunk.reports)
    return left * fmean(r.seconds for r in trunk.reports)


def _saved_training(plan: Plan, trunk: TrunkEnded) -> float:
    """Nothing where nothing was trained: an untrained trunk is scored once a test resolution."""
    trained = sum(r.seconds for r in trunk.reports if r.images)
    return trained * (len(plan.grid.tests[point_of(trunk.trunk)]) - 1)


def _images(
    plan: Plan, trunks: Sequence[TrunkEnded], cells: Sequence[CellEnded]
) -> dict[str, ImagePasses]:
    reports = [r for t in trunks for r in t.reports]
    done = {
        "trained": sum(r.images for r in reports),
        "scored at rungs": sum(score.n for r in reports for score in r.val.values()),
        "adapted in cells": sum(cell_images(plan, c.cell.variant) for c in cells),
    }
    return {
        name: ImagePasses(planned=planned, done=done[name])
        for name, planned in image_passes(plan).items()
    }


# --- passes of the net that a cell did without --------------------------------------------------


def _saved_passes(plan: Plan, cell: CellEnded) -> tuple[int, float | None]:
    """Images, and seconds if a pass of the cell was timed by itself.

    A pass over train and one over val for each (setting, epoch) pair that was tried, less all that
    the cell took, its arms without a classifier of their own included.
    """
    pairs = sum(r.head_tried for r in cell.rows if r.arm in _HEADS)
    plain = pairs * (plan.counts["train"] + plan.counts["val"])
    saved = max(0, plain - cell_images(plan, cell.cell.variant))
    if not saved:
        return 0, 0.0
    rate = _image_seconds(plan, cell)
    return saved, None if rate is None else saved * rate


def _image_seconds(plan: Plan, cell: CellEnded) -> float | None:
    """Seconds of one image through the net, as the cell's own passes took.

    The first arm in the cell's transform waits for the pass over val, the first that needs the
    train images for that over them; where these fit no classifier, nearly all of their time is the
    pass. The faster of the two, as either may have had pixels to resize first.
    """
    ordered = sorted(cell.rows, key=lambda r: rank(r.arm))
    here = [
        r
        for r in ordered
        if serving_transform(cell.cell.trunk, cell.cell.spec, r.arm) == cell.cell.spec.transform
    ]
    firsts = [here[0], next((r for r in here if ARMS[r.arm].needs_train), here[0])]
    rates = []
    for row in dict.fromkeys(firsts):
        images = plan.counts["val"] if row is here[0] else 0
        images += plan.counts["train"] if ARMS[row.arm].needs_train else 0
        if not row.head_tried:
            rates.append(row.seconds / images)
    return min(rates, default=None)
