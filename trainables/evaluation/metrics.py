"""Scores: no accuracy without its split and sample size."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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


def score(logits: torch.Tensor, labels: torch.Tensor, split: str) -> Score:
    """Score logits (N, C) against labels (N,) int64 on the same device."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    predicted = logits.argmax(dim=1)
    counts = count_by_class(labels.cpu().numpy(), predicted.cpu().numpy(), logits.shape[1])
    return Score(
        split=split,
        n=len(labels),
        hits1=int(ranked[:, 0].sum()),
        hits5=int(ranked.any(dim=1).sum()),
        balanced_accuracy=float(counts.value("balanced_accuracy")),
        macro_f1=float(counts.value("macro_f1")),
    )
