"""Learning curves of simulated trunks, resampled from those of real ones.

Recorded, in recorded_curves.json, by record_curves.py: trunks of one point of three real sweeps
without cuts, with their hyperparameters and their hits on val, at the best test resolution, after
each epoch that can be a rung. A simulated sweep has the curves of one of the sets of images:

- What the learning rate does to top-1 after each of these epochs is a least-squares fit of the
  set's trunks: a parabola of its logarithm, for the logit. Curves cross by it, as low rates lead
  early.
- What the fit leaves of a real trunk, from its first epoch to its last, is what all else does to a
  curve: weight decay, label smoothing and chance. A simulated trunk has that of one of the real
  ones, drawn by its key, so that the search has nothing to learn from it. Residuals are scaled up
  by the trunk's leverage, as those of a fit are too small. The chance of the real val is in them,
  so that they are rather too large.

Assumed, not recorded: variants and train resolutions differ as in made_up_sweeps.py, by as many
logits as make these points of top-1 at 75 %, and hyperparameters act on all of them as on the
recorded one. Beyond that val adds the chance of its images.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_up_sweeps import BATCH_SIZE, BY_SIZE, EPOCHS, base_of, draws
from sweeps.planning.grid import Point, point_of
from sweeps.planning.savings.rungs import default_grace_epochs
from trainables.training.trunk import TrunkSpec

FILE = Path(__file__).with_name("recorded_curves.json")
POINTS_PER_LOGIT = 0.75 * 0.25  # the logistic function's slope at 75 %
MIDDLE = base_of(Point(variant=BY_SIZE[len(BY_SIZE) // 2], train_res=192))


class Recorded:
    """Curves resampled from the real ones of a set of images."""

    wobble = 0.0  # that of real epochs is in the residuals

    def __init__(self, name: str):
        recorded = _sets()[name]
        trunks, n = recorded["trunks"], recorded["val"]
        hits = np.array([np.max(list(trunk["hits"].values()), axis=0) for trunk in trunks])
        logits = np.log((hits + 0.5) / (n - hits + 0.5))
        factors = np.array([_factors(trunk["lr"]) for trunk in trunks])
        self._epochs = np.array(recorded["epochs"]) * EPOCHS / recorded["epochs"][-1]
        self.fit, *_ = np.linalg.lstsq(factors, logits, rcond=None)
        leverage = np.sum(factors @ np.linalg.pinv(factors.T @ factors) * factors, axis=1)
        scale = np.sqrt(np.maximum(1 - leverage, 0.1))
        self.residuals = (logits - factors @ self.fit) / scale[:, None]
        self._curves: dict[str, np.ndarray] = {}
        grace = default_grace_epochs(recorded["train"], BATCH_SIZE)
        self.default_grace = math.ceil(grace * EPOCHS / recorded["epochs"][-1])

    def top1(self, trunk: TrunkSpec, epoch: int, start: float | None = None) -> float:
        """Tell the true accuracy after an epoch; between those that were scored, on a line."""
        if start is not None:
            raise ValueError("no trunk that starts from another was recorded")
        if trunk.key not in self._curves:
            chance = self.residuals[draws(trunk.key).integers(len(self.residuals))]
            offset = (base_of(point_of(trunk)) - MIDDLE) / POINTS_PER_LOGIT
            known = _factors(trunk.hyper.lr) @ self.fit
            self._curves[trunk.key] = known + chance + offset
        logit = np.interp(epoch, self._epochs, self._curves[trunk.key])
        return float(1 / (1 + np.exp(-logit)))


def names() -> tuple[str, ...]:
    """Name the sets of images that there are curves of."""
    return tuple(_sets())


@cache
def of_set(name: str) -> Recorded:
    """Make the curves of a set."""
    return Recorded(name)


@cache
def _sets() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def _factors(lr: float) -> np.ndarray:
    lr = math.log10(lr / 1e-3)
    return np.array([1, lr, lr**2])
