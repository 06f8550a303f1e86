"""Save a trunk's training state in the store, and resume from it.

    trunks/<key>/spec.json     the trunk's spec; written when its training begins
    trunks/<key>/state.pt      the state between two epochs or within one, replaced each time
    trunks/<key>/work.jsonl    a line for each epoch that was trained to its end

A finished trunk has no state.pt any more, but result.json: see :func:`.trunk.finalize_trunk`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import append_line, read_record, read_state, write_json, write_state
from trainables.storage.hashing import to_jsonable
from trainables.training.distributed import WorkerGroup
from trainables.training.trunk import (
    EpochReport,
    TrunkSpec,
    epoch_report_from_json,
    trunk_spec_from_json,
)


@dataclass(frozen=True, kw_only=True)
class TrainingPosition:
    """How far a training has come, beside the tensors that it trains."""

    reports: tuple[EpochReport, ...] = ()  # for the epochs that are over
    epoch_progress: Mapping[str, Any] | None = None  # within the next epoch: EpochProgress.state
    steps: int = 0  # optimiser steps since the last report, repeated ones included
    micro_batch: int | None = None  # images at once, as far as memory went; None: whole batches
    loss_scale: Mapping[str, Any] | None = None  # TrainStep.loss_scale; None: it is not scaled


class TrunkCheckpoint:
    """The files of one trunk in training.

    Where several workers train it, all of them call every method, in the same order: each reads the
    state, the first alone writes it, and the others wait until it has.
    """

    def __init__(
        self,
        store: Store,
        spec: TrunkSpec,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: ModelEmaV3 | None,
        group: WorkerGroup,
    ):
        """Choose what is saved, and where.

        Args:
            model, optimizer, ema: their states are saved, and set when a training is resumed.
            group: this worker among those that train the trunk.
        """
        self.folder = store.trunk(spec.key)
        self._spec, self._group = spec, group
        self._model, self._optimizer, self._ema = model, optimizer, ema

    def resume(self) -> TrainingPosition:
        """Set model, optimiser and moving average to the saved state; without one, write the spec.

        A damaged state counts as none, which a warning tells.

        Returns:
            Where the training stands.

        Raises:
            ValueError: the trunk is finished.
        """
        if (self.folder / "result.json").exists():
            raise ValueError(f"trunk {self._spec.key} is finished")
        state = unless_damaged(lambda: read_state(self.folder / "state.pt"))
        if state is None:
            if self._group.rank == 0 and not self._has_spec():
                write_json(self.folder / "spec.json", self._spec)
            return TrainingPosition()
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._ema:
            self._ema.module.load_state_dict(state["ema"])
        return TrainingPosition(
            reports=tuple(epoch_report_from_json(r) for r in state["reports"]),
            epoch_progress=state.get("progress"),
            steps=state.get("steps", 0),
            micro_batch=state.get("micro_batch"),
            loss_scale=state.get("loss_scale"),
        )

    def _has_spec(self) -> bool:
        """Whether the store holds the spec, undamaged."""
        path = self.folder / "spec.json"
        return unless_damaged(lambda: read_record(path, trunk_spec_from_json)) == self._spec

    def save(self, position: TrainingPosition) -> None:
        """Replace the state by that of model, optimiser and moving average as they are now.

        Returns in all workers once it is written: a process that ends then may end the others.
        """
        if self._group.rank == 0:
            self._write(position)
        self._group.barrier()

    def _write(self, position: TrainingPosition) -> None:
        state: dict[str, Any] = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "reports": to_jsonable(position.reports),
            "micro_batch": position.micro_batch,
            "progress": position.epoch_progress,
            "steps": position.steps,
        }
        if position.loss_scale:
            state["loss_scale"] = dict(position.loss_scale)
        if self._ema:
            state["ema"] = self._ema.module.state_dict()
        write_state(self.folder / "state.pt", state)

    def log_epoch(self, report: EpochReport, steps: int) -> None:
        """Append an epoch to the log of work done, where one that is trained again stands twice.

        Args:
            steps: optimiser steps that it took, repeated ones included.
        """
        if self._group.rank == 0:
            line = {"epoch": report.epoch, "seconds": report.seconds, "at": report.at}
            append_line(self.folder / "work.jsonl", {**line, "steps": steps})
