"""Judge what val picked by images that did not pick it.

A classifier is picked among many (setting, epoch) pairs by their hits on val, so its own hits there
flatter it: it is the luckiest of them. Val is therefore split into two halves. Each half picks for
itself, and the other half judges its pick: together these are cross-fitted predictions, one for
each image of val. The classifier that is kept is picked on all of val; its accuracy on new images
is about that of the halves' picks, which had half as many images to pick on (cross-fitting as in
Chernozhukov et al., The Econometrics Journal 21, 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

import torch

from trainables.fixres.head_settings import HeadSetting

Merit = tuple[float, float]  # on val: the metric, then minus the loss; the larger the better
WORST: Merit = (-1, -inf)  # the merit of a classifier whose loss is not finite, too
_SEED = 0


def val_halves(labels: torch.Tensor) -> torch.Tensor:
    """Split images into two halves of like classes: labels (n,) int64 -> (n,) int64, 0 or 1.

    The halves depend on the labels alone, so that all classifiers of a sweep are judged alike. Each
    class is split evenly, and so are all images, but for one.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    by_class = order[labels.cpu()[order].argsort(stable=True)]
    halves = torch.empty(len(labels), dtype=torch.int64)
    halves[by_class] = torch.arange(len(labels)) % 2
    return halves.to(labels.device)


def merit(value: float, mean_loss: float) -> Merit:
    """Rank a classifier by its value, then its mean loss; one that is not finite is the worst."""
    # Means over classes that are equal may differ by the order in which they were summed.
    return (round(value, 12), -mean_loss) if isfinite(mean_loss) else WORST


@dataclass(frozen=True)
class CrossFit:
    """What two halves of val picked, each judged on the other."""

    predicted: torch.Tensor  # (n,) int64 on the CPU: what the pick of the other half says of each
    picked: tuple[HeadSetting, HeadSetting]  # by half


class HalfPicks:
    """The best classifier so far by each half of val, and what it says of all of val."""

    def __init__(self, halves: torch.Tensor, predicted: torch.Tensor, setting: HeadSetting):
        """Begin with the classifier that stands where no other is finite.

        Args:
            halves: of :func:`val_halves`.
            predicted: (n,) int64, of that classifier.
            setting: of that classifier.
        """
        self._halves, self._merits = halves.cpu(), [WORST, WORST]
        self._predicted, self._picked = [predicted.cpu()] * 2, [setting, setting]

    def offer(
        self,
        half: int,
        merits: Sequence[Merit],
        predicted: torch.Tensor,
        settings: Sequence[HeadSetting],
    ) -> bool:
        """Let a half of val pick among classifiers, the first of equal ones; say if it took one.

        Args:
            merits: of each classifier on that half.
            predicted: (classifiers, n) int64, of all of val.
            settings: of each classifier, with its number of epochs.
        """
        best = max(merits)
        if best <= self._merits[half]:
            return False
        place = list(merits).index(best)
        self._merits[half] = best
        self._predicted[half], self._picked[half] = predicted[place].cpu(), settings[place]
        return True

    def judged(self) -> CrossFit:
        """Let the pick of each half predict the other half."""
        first, second = self._predicted
        return CrossFit(
            torch.where(self._halves == 0, second, first), (self._picked[0], self._picked[1])
        )
