"""How far an epoch in training has come: sums for its report, and what it can be resumed from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from trainables.models.device import sums_dtype
from trainables.training.distributed import WorkerGroup
from trainables.training.train_step import StepResult, rng_state, set_rng_state


class EpochProgress:
    """Sums over the batches done: of loss and hits this worker's part, of images all workers'.

    Its clock runs from when it is made.

    Attributes:
        batches: optimiser steps done.
        images: trained on, by all workers.
        probe_s: seconds of fitting, before the epoch, the probe that the trunk starts from.
        probe_wait_s: seconds of waiting, before the epoch, while others fitted that probe.
    """

    def __init__(
        self,
        device: torch.device,
        group: WorkerGroup,
        *,
        probe_s: float = 0.0,
        probe_wait_s: float = 0.0,
    ):
        """Begin an epoch."""
        self._device, self._group = device, group
        self.probe_s, self.probe_wait_s = probe_s, probe_wait_s
        self.batches = 0
        self.images = 0
        self._loss = torch.zeros((), device=device, dtype=sums_dtype(device))
        self._hits = torch.zeros((), device=device, dtype=torch.int64)
        self._earlier_s, self._began = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of work on the epoch, those before an interruption included."""
        return self._earlier_s + time.monotonic() - self._began

    def add(self, result: StepResult, images: int) -> None:
        """Count a step.

        Args:
            result: this worker's.
            images: of the whole batch.
        """
        self.batches += 1
        self.images += images
        self._loss += result.loss
        self._hits += result.hits

    def totals(self) -> tuple[float, int]:
        """Sum loss and hits over all images of all workers; every worker calls it."""
        parts = torch.tensor([float(self._loss), int(self._hits)], dtype=torch.float64)
        loss, hits = self._group.all_reduce_sum(parts).tolist()
        return loss, int(hits)

    def state(self) -> dict[str, Any]:
        """Collect what the epoch can be resumed from; every worker calls it, and all get the same.

        Returns:
            Plain numbers, and under "rng" the state of the random generators, which all workers
            have alike: (1, S) uint8. Earlier versions have a row for each worker.
        """
        loss, hits = self.totals()
        return {
            "batches": self.batches,
            "seen": self.images,
            "loss": loss,
            "hits": hits,
            "seconds": self.seconds,
            "probe_s": self.probe_s,
            "probe_wait_s": self.probe_wait_s,
            "rng": rng_state(self._device)[None],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from what :meth:`state` gave, random generators too."""
        self.batches, self.images = state["batches"], state["seen"]
        if self._group.rank == 0:
            self._loss += state["loss"]
            self._hits += state["hits"]
        self._earlier_s = state["seconds"]
        self.probe_s = state.get("probe_s", 0.0)  # earlier versions have neither
        self.probe_wait_s = state.get("probe_wait_s", 0.0)
        set_rng_state(state["rng"][0], self._device)
