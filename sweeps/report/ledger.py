"""Add up what a sweep spent, and what it would have spent had it shared nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sweeps.events.event_types import CellEnded, TrunkEnded
from sweeps.events.forecast import Forecast
from sweeps.events.recorders import History
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import PROBED, cell_images, image_passes, probe_images
from sweeps.selection.leaderboard import Row
from trainables.fixres.arms import ARMS, rank
from trainables.training.trunk import TrunkStatus, trained_epochs


@dataclass(frozen=True, kw_only=True)
class ImagePasses:
    """Images that went through the net for one purpose."""

    planned: int
    """The most that the plan allows."""
    done: int


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Time and images that a sweep spent and saved.

    Seconds are added up over trials, also where these ran side by side. Savings are estimated
    against a grid of one trial a cell: each cell trains its own trunk, by the same hyperparameters
    and under the same cuts, and runs the net over train and val for every (classifier setting,
    epoch) pair that was tried.
    """

    trunks: int
    """Trunks that ended, in whatever way."""
    cut: int
    """Trunks that ASHA cut."""
    frozen: int
    """Trunks whose batch norms stood still in some steps, as memory held too few images."""
    cells: int
    """Cells that were adapted."""
    trained_s: float
    """Phase 1: the epochs of all trunks, and the probes that they start from; or the scoring of
    untrained ones."""
    adapted_s: float
    """Phase 2: all arms of all cells."""
    read_s: float
    """Scoring on the held-out sets."""
    refit_s: float
    """Training the choice again."""
    undone_s: float
    """Time that the cut trunks would have taken to their end, estimated."""
    saved_trunks_s: float
    """Saved by training a trunk once, not once for each test resolution."""
    saved_images: int
    """Images saved by running the net once a cell, not once for each (setting, epoch) pair."""
    saved_passes_s: float | None
    """Time of ``saved_images``; None: no pass was timed by itself."""
    images: Mapping[str, ImagePasses]
    """By purpose, as in sweeps.planning.workload.image_passes."""
    price_per_hour: float | None
    """Price of one trial's machine, in any currency."""
    predicted: Forecast | None = None
    """What the sweep was predicted to take; None: the device had not been timed before."""

    @property
    def spent_s(self) -> float:
        """Time of all trials, of a refit and of scoring on the held-out sets."""
        return self.trained_s + self.adapted_s + self.refit_s + self.read_s

    @property
    def alone_s(self) -> float:
        """Time that one trial a cell would have taken, as far as it can be estimated."""
        return self.spent_s + self.saved_trunks_s + (self.saved_passes_s or 0.0)

    def money(self, seconds: float) -> float | None:
        """Convert seconds of a trial to money; None without a price."""
        return None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour


def build_ledger(
    plan: Plan,
    history: History,
    rows: Sequence[Row],
    read_s: float,
    refit_s: float,
    price_per_hour: float | None,
) -> Ledger:
    """Add up what the sweep spent and saved.

    Args:
        rows: of val, which phase 2 made, and others.
        read_s: seconds of the readings on held-out sets after the choice.
        refit_s: seconds of training the choice again.
    """
    trunks, predicted = list(history.trunks.values()), history.forecast
    cells = [cell for cell in history.cells.values() if cell.rows]
    # One arm alone times no pass by itself: of untouched nets nothing is claimed.
    passes = [_saved_passes(plan, cell) for cell in cells if not cell.cell.trunk.is_untouched]
    seconds = [s for _, s in passes]
    return Ledger(
        trunks=len(trunks),
        cut=sum(t.status == TrunkStatus.CUT for t in trunks),
        frozen=sum(any(r.frozen_norms for r in t.reports) for t in trunks),
        cells=len(cells),
        trained_s=sum(r.took_s for t in trunks for r in t.reports),
        adapted_s=sum(r.seconds for r in rows if r.split == "val"),
        read_s=read_s,
        refit_s=refit_s,
        undone_s=sum(map(_undone_seconds, trunks)),
        saved_trunks_s=sum(_saved_training(plan, t) for t in trunks),
        saved_images=sum(images for images, _ in passes),
        saved_passes_s=None if None in seconds else sum(s for s in seconds if s is not None),
        images=_images(plan, trunks, cells),
        price_per_hour=price_per_hour,
        predicted=predicted if predicted is not None and predicted.device else None,
    )


def _undone_seconds(trunk: TrunkEnded) -> float:
    """Estimate the seconds that a cut trunk was spared, by the mean of its own epochs."""
    if trunk.status != TrunkStatus.CUT or not trunk.reports:
        return 0.0
    left = trunk.trunk.recipe.epochs - trained_epochs(trunk.reports)
    return left * fmean(r.seconds for r in trunk.reports)


def _saved_training(plan: Plan, trunk: TrunkEnded) -> float:
    """Estimate the seconds saved by training the trunk once for all its test resolutions.

    There are none for an untrained trunk, which is scored once for each test resolution anyway.
    """
    trained = sum(r.seconds for r in trunk.reports if r.images)
    return trained * (len(plan.grid.tests[point_of(trunk.trunk)]) - 1)


def _images(
    plan: Plan, trunks: Sequence[TrunkEnded], cells: Sequence[CellEnded]
) -> dict[str, ImagePasses]:
    reports = [r for t in trunks for r in t.reports]
    done = {
        PROBED: probe_images(plan) * sum(r.probe_s > 0 for r in reports),
        "trained": sum(r.images for r in reports),
        "scored at rungs": sum(score.n for r in reports for score in r.val.values()),
        "adapted in cells": sum(cell_images(plan, c.cell.spec.arms) for c in cells),
    }
    return {
        name: ImagePasses(planned=planned, done=done[name])
        for name, planned in image_passes(plan).items()
    }


# --- passes of the net that a cell saved ---------------------------------------------------------


def _saved_passes(plan: Plan, cell: CellEnded) -> tuple[int, float | None]:
    """Estimate the images that a cell saved, and the seconds if a pass was timed by itself.

    It saved a pass over train and one over val for each (setting, epoch) pair that was tried, minus
    all passes that it took, those of arms without a classifier of their own included.
    """
    pairs = sum(r.head_tried for r in cell.rows if ARMS[r.arm].fits_features)
    without_sharing = pairs * (plan.counts["train"] + plan.counts["val"])
    saved = max(0, without_sharing - cell_images(plan))
    if not saved:
        return 0, 0.0
    rate = _image_seconds(plan, cell)
    return saved, None if rate is None else saved * rate


def _image_seconds(plan: Plan, cell: CellEnded) -> float | None:
    """Estimate the seconds that one image takes through the net, from the cell's own passes.

    The time of the first arm includes the pass over val, and that of the first arm that needs the
    train images the pass over train; where they fit no classifier, nearly all of their time is that
    pass. The faster of the two counts, as either may have had to resize pixels first.
    """
    ordered = sorted(cell.rows, key=lambda r: rank(r.arm))
    first = ordered[0]
    first_on_train = next((r for r in ordered if ARMS[r.arm].needs_train), first)
    rates = []
    for row in dict.fromkeys((first, first_on_train)):
        images = plan.counts["val"] if row is first else 0
        images += plan.counts["train"] if ARMS[row.arm].needs_train else 0
        if not row.head_tried:
            rates.append(row.seconds / images)
    return min(rates, default=None)
