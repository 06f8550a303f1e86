"""What an epoch in training has come to so far, for its report and for going on within it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from trainables.training.distributed import WorkerGroup
from trainables.training.train_step import StepResult, rng_state, set_rng_state


class EpochProgress:
    """Sums over the batches done, of loss and hits this worker's part; the seconds go on from when
    it is made."""

    def __init__(self, device: torch.device, group: WorkerGroup):
        self._device, self._group = device, group
        self.batches = 0
        self.seen = 0  # images, by all workers
        self._loss = torch.zeros((), device=device, dtype=torch.float64)
        self._hits = torch.zeros((), device=device, dtype=torch.int64)
        self._earlier, self._began = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """At work on the epoch, those before an interruption included."""
        return self._earlier + time.monotonic() - self._began

    def add(self, taken: StepResult, images: int) -> None:
        self.batches += 1
        self.seen += images
        self._loss += taken.loss
        self._hits += taken.hits

    def totals(self) -> tuple[float, int]:
        """Loss and hits, summed over all images of all workers."""
        parts = torch.tensor([float(self._loss), int(self._hits)], dtype=torch.float64)
        loss, hits = self._group.all_reduce_sum(parts).tolist()
        return loss, int(hits)

    def state(self) -> dict[str, Any]:
        """As it is kept, with the places of every worker's generators: "rng", (world, S) uint8."""
        loss, hits = self.totals()
        return {
            "batches": self.batches,
            "seen": self.seen,
            "loss": loss,
            "hits": hits,
            "seconds": self.seconds,
            "rng": self._group.all_gather(rng_state(self._device)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave; draws included, but for workers that are more."""
        self.batches, self.seen = state["batches"], state["seen"]
        if self._group.rank == 0:
            self._loss += state["loss"]
            self._hits += state["hits"]
        self._earlier = state["seconds"]
        if self._group.rank < len(state["rng"]):
            set_rng_state(state["rng"][self._group.rank], self._device)
