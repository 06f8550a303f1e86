"""Scores: no accuracy without its split and sample size."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Score:
    """Hits among ``n`` images of ``split``; top-5 is top-all where there are fewer classes."""

    split: str
    n: int
    hits1: int
    hits5: int

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


def score(logits: torch.Tensor, labels: torch.Tensor, split: str) -> Score:
    """Count hits of logits (N, C) against labels (N,) int64 on the same device."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return Score(
        split=split,
        n=len(labels),
        hits1=int(ranked[:, 0].sum()),
        hits5=int(ranked.any(dim=1).sum()),
    )
