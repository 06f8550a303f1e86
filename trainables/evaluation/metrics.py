"""Scores: no accuracy without its split and sample size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.errors import SweepError
from trainables.evaluation.class_metrics import Metric, count_by_class


@dataclass(frozen=True, kw_only=True)
class Score:
    """Hits among ``n`` images of ``split``; top-5 is top-all where there are fewer classes."""

    split: str
    n: int
    hits1: int
    hits5: int
    balanced_accuracy: float | None = None
    """Mean recall over the classes that occur; None: a version that did not count it scored."""
    macro_f1: float | None = None
    """Mean F1 over the same classes; None as well."""

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ValueError: there are no images, or more hits than images.
        """
        if not (self.n > 0 and 0 <= self.hits1 <= self.n and 0 <= self.hits5 <= self.n):
            raise ValueError(f"{self.hits1} and {self.hits5} hits among {self.n} images")

    @property
    def top1(self) -> float:
        """Share of images whose label is the most likely class."""
        return self.hits1 / self.n

    @property
    def top5(self) -> float:
        """Share of images whose label is among the five most likely classes."""
        return self.hits5 / self.n

    def value(self, metric: Metric) -> float:
        """Give the score by one metric, a share; it must have been counted."""
        found: float | None = getattr(self, metric)
        assert found is not None, f"{metric} was not counted"
        return found


class NotFiniteError(SweepError):
    """A net whose logits are not finite has no score: it is broken, not as good as chance."""


def score(
    logits: torch.Tensor, labels: torch.Tensor, split: str, present: Sequence[int] | None = None
) -> Score:
    """Score logits (N, C) against labels (N,) int64 on the same device.

    A top-1 hit is a label that is :func:`predicted`. A top-5 hit is that, or a label with at most
    four others as likely as it or likelier: equal logits count against it, so that a classifier
    that knows nothing gains nothing by saying so.

    Args:
        present: the classes that occur, ascending; the others' logits do not count. None: all.

    Raises:
        NotFiniteError: a logit is not finite.
    """
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise NotFiniteError(
            f"The logits of {broken} of {len(labels)} images of {split} are not finite."
        )
    z, said = of_present(logits, present), predicted(logits, present)
    rank = (z >= z.gather(1, labels[:, None])).sum(dim=1)
    hit, among_five = said == labels, (rank <= 5) | (z.shape[1] <= 5)
    counts = count_by_class(labels.cpu().numpy(), said.cpu().numpy(), z.shape[1])
    return Score(
        split=split,
        n=len(labels),
        hits1=int(hit.sum()),
        hits5=int((hit | among_five).sum()),
        balanced_accuracy=float(counts.value("balanced_accuracy")),
        macro_f1=float(counts.value("macro_f1")),
    )


def predicted(logits: torch.Tensor, present: Sequence[int] | None = None) -> torch.Tensor:
    """Give the most likely class of each image, the first of equal ones: (N, C) -> (N,) int64.

    Args:
        present: the classes that may be predicted, ascending; None: all.
    """
    return of_present(logits, present).argmax(dim=1)


def of_present(logits: torch.Tensor, present: Sequence[int] | None) -> torch.Tensor:
    """Put the logits (N, C) of classes that are not present below all others: to minus infinity."""
    if present is None:
        return logits
    absent = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    absent[list(present)] = False
    return logits.masked_fill(absent, -torch.inf)
