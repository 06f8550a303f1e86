"""Train one trunk: a variant, fine-tuned whole at its train resolution, epoch by epoch.

Knows neither scheduler nor tracker: call :meth:`TrunkTraining.epoch` as often as you like, then
:func:`.trunk.finalize_trunk`. Each epoch ends in the store, so that training goes on from the last
one, in whatever process; a long one, or one that is interrupted, gets there within.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3

from trainables.data.image_set import ImageSet
from trainables.data.loader import TrainBatch, train_batches
from trainables.data.view_cache import ViewCache
from trainables.errors import UserError
from trainables.evaluation.metrics import Score, score
from trainables.models import backbone, variants
from trainables.models.device import pick_device
from trainables.models.weights import stored_state
from trainables.storage.artifact_store import Store
from trainables.storage.files import append_line, read_state, write_json, write_state
from trainables.storage.hashing import to_jsonable
from trainables.training.distributed import WorkerGroup
from trainables.training.epoch_progress import EpochProgress
from trainables.training.optim import lr_factor, make_optimizer
from trainables.training.preemption import PreemptedError
from trainables.training.train_step import MIN_MICRO_BATCH, TrainStep
from trainables.training.trunk import (
    EpochReport,
    TrunkSpec,
    epoch_report_from_json,
)
from trainables.training.validation import shared_logits
from trainables.transforms.eval_transform import EvalTransform

SAVE_EVERY_S = 300.0  # within an epoch
ALONE = WorkerGroup()


class TrunkTraining:
    """One trunk in training, resumed from the store where it has been begun.

    Several workers may train it together, each a process with a TrunkTraining of the same
    arguments. Every batch is shared among them and is one step of the optimiser, so that the result
    is that of one worker, but for batch norm: it sees each worker's share, and its running
    statistics are the first worker's. The first one alone writes to the store. All of them go on
    from there, not necessarily as many.
    """

    def __init__(
        self,
        spec: TrunkSpec,
        images: ImageSet,
        store: Store,
        *,
        cache: Path,
        threads: int,
        val_transforms: tuple[EvalTransform, ...],
        rungs: tuple[int, ...],
        should_stop: Callable[[], bool] = lambda: False,
        group: WorkerGroup = ALONE,
        device: torch.device | None = None,
    ):
        """
        Args:
            cache: node-local folder for test views.
            threads: CPU threads for cropping and, on a CPU, for the net.
            val_transforms: what val is scored through, each with a test resolution of its own.
            rungs: the epochs after which it is scored.
            should_stop: asked after each step whether this process is to end; one worker of
                whom that is true ends all.
            group: this worker among those that train the trunk.
            device: of this worker; None: the GPU if there is one.

        Raises:
            UserError: there are too many workers for a batch.
        """
        self.spec, self.images, self.store = spec, images, store
        self.place = ViewCache(images=images, cache=cache, threads=threads)
        self.val_transforms, self.rungs, self._should_stop = val_transforms, rungs, should_stop
        self._train_images = images.split("train")
        self._images_a_batch = min(spec.recipe.batch_size, len(self._train_images))
        self._steps_an_epoch = len(self._train_images) // self._images_a_batch
        self.group, self.device = group, device or pick_device()
        if group.world_size > 1 and self._images_a_batch < MIN_MICRO_BATCH * group.world_size:
            raise UserError(
                f"--workers-per-trial {group.world_size} leaves less than {MIN_MICRO_BATCH} images "
                "of a batch for each, too few for batch norm: give fewer workers or a larger "
                "--batch-size."
            )
        self.variant = variants.get(spec.variant)
        self.preprocessing = variants.preprocessing(self.variant)
        self.folder = store.trunk(spec.key)
        self.reports: list[EpochReport] = []
        self._progress: dict[str, Any] | None = None  # within the next epoch
        self._steps = 0  # optimiser steps made, those redone included, since the last report
        self._build()
        self._resume()

    def _build(self) -> None:
        recipe, hyper = self.spec.recipe, self.spec.hyper
        torch.manual_seed(self.spec.seed)  # for the classifier's start
        drop_rate = self.variant.dropout if recipe.dropout else 0.0
        model = backbone.build(self.variant, len(self.images.classes), drop_rate=drop_rate)
        state = stored_state(self.spec.weights, self.store)
        if state is not None:
            backbone.load_trunk(model, state)
        self.model = backbone.to_device(model, self.device)
        self.optimizer = make_optimizer(
            self.model, recipe.optimizer, lr=hyper.lr, weight_decay=hyper.weight_decay
        )
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.stepper = TrainStep(
            self.model,
            self.optimizer,
            self.preprocessing,
            label_smoothing=hyper.label_smoothing,
            device=self.device,
            group=self.group,
        )

    def _resume(self) -> None:
        """Take up what the store holds: whole epochs, and what was done of the next."""
        if (self.folder / "result.json").exists():
            raise ValueError(f"trunk {self.spec.key} is finished")
        state = read_state(self.folder / "state.pt")
        if state is None:
            if self.group.rank == 0 and not (self.folder / "spec.json").exists():
                write_json(self.folder / "spec.json", self.spec)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.stepper.micro_batch = state.get("micro_batch")
        self.reports = [epoch_report_from_json(r) for r in state["reports"]]
        self._progress, self._steps = state.get("progress"), state.get("steps", 0)

    @property
    def trained_epochs(self) -> int:
        return len(self.reports)

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The moving average where there is one, else the model itself."""
        return self.ema.module if self.ema else self.model

    def epoch(self) -> EpochReport:
        """Train one more epoch, score it if it is a rung, and put it into the store.

        One that was interrupted is gone on with, to the same result.

        Raises:
            PreemptedError: this process is to end. What was done of the epoch is in the store.
            SweepError: memory does not take even the smallest part of a batch.
        """
        number = self.trained_epochs + 1
        # Dropout's draws, those of each worker its own.
        torch.manual_seed(self.spec.seed * 1_000_003 + number + 10_007 * self.group.rank)
        tally = EpochProgress(self.device, self.group)
        if self._progress is not None:
            tally.restore(self._progress)
        self._train(number, tally)
        loss, hits = tally.totals()
        mean_loss = loss / tally.seen
        self.group.broadcast(self.model.buffers())
        self.group.broadcast(self.evaluated_model.buffers())
        (diverged,) = self.group.any_true(not (math.isfinite(mean_loss) and self._is_finite()))
        scored = number in self.rungs and not diverged
        report = EpochReport(
            epoch=number,
            loss=mean_loss if math.isfinite(mean_loss) else None,
            train_top1=hits / tally.seen,
            images=tally.seen,
            lr=self._lr(number * self._steps_an_epoch - 1),
            val=self._validate(tally) if scored else {},
            seconds=round(tally.seconds, 3),
            at=int(time.time() * 1000),
            diverged=diverged,
            micro_batch=self.stepper.micro_batch,
        )
        self._report(report)
        return report

    def _train(self, number: int, tally: EpochProgress) -> None:
        """What is left of an epoch."""
        self.model.train()
        saved = time.monotonic()

        def ask() -> tuple[bool, bool]:
            return self._should_stop(), time.monotonic() - saved > SAVE_EVERY_S

        for batch in self._batches(number, tally.batches):
            step = (number - 1) * self._steps_an_epoch + tally.batches
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = self._lr(step)
            taken, (ends, late) = self.stepper.step(batch, self._images_a_batch, ask)
            if self.ema:
                self.ema.update(self.model, step=step)
            tally.add(taken, self._images_a_batch)
            self._steps += 1
            if ends or late:
                self._save(tally)
                saved = time.monotonic()
            if ends:
                raise PreemptedError

    def _batches(self, number: int, start: int) -> Iterator[TrainBatch]:
        recipe = self.spec.recipe
        return train_batches(
            self._train_images,
            self.spec.train_res,
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation,
            interpolation=self.preprocessing.interpolation,
            seed=(self.spec.seed, number),
            threads=self.place.threads,
            start=start,
            rank=self.group.rank,
            world=self.group.world_size,
        )

    def score_untrained(self) -> EpochReport:
        """Score the trunk untrained, as epoch 0, and put it into the store.

        Its weights are then the pretrained ones, their classifier included.
        """
        began = time.monotonic()
        report = EpochReport(
            epoch=0,
            loss=None,
            train_top1=None,
            images=0,
            lr=0.0,
            val=self._validate(None),
            seconds=round(time.monotonic() - began, 3),
            at=int(time.time() * 1000),
        )
        self._report(report)
        return report

    def _is_finite(self) -> bool:
        """Whether the last step left numbers: its own loss is from before it."""
        state = self.evaluated_model.state_dict()
        return bool(torch.stack([tensor.isfinite().all() for tensor in state.values()]).all())

    def _lr(self, step: int) -> float:
        recipe = self.spec.recipe
        return self.spec.hyper.lr * lr_factor(
            step,
            steps=recipe.epochs * self._steps_an_epoch,
            warmup=round(recipe.warmup_epochs * self._steps_an_epoch),
            schedule=recipe.schedule,
        )

    def _validate(self, tally: EpochProgress | None) -> dict[int, Score]:
        """Val in the test transform at each test resolution, in shares.

        Interrupted, it saves the epoch's training, if there was any, and nothing of its own.
        """
        labels = torch.tensor(self.images.split("val").labels)
        scores = {}
        for transform in self.val_transforms:
            logits = shared_logits(
                self.evaluated_model,
                self.place.view("val", transform),
                self.preprocessing,
                batch_size=self.spec.recipe.batch_size,
                device=self.device,
                group=self.group,
                should_stop=self._should_stop,
            )
            if logits is None:
                if tally is not None:
                    self._save(tally)
                raise PreemptedError
            scores[transform.test_res] = score(logits, labels, "val")
        return scores

    def _report(self, report: EpochReport) -> None:
        """Put an epoch that is over into the store."""
        self.reports.append(report)
        if self.group.rank == 0:
            self._note(report)
        self._steps = 0
        self._save(None)

    def _note(self, report: EpochReport) -> None:
        # What was really trained, for good and all: an epoch that is redone stands here twice.
        line = {"epoch": report.epoch, "seconds": report.seconds, "at": report.at}
        append_line(self.folder / "work.jsonl", {**line, "steps": self._steps})

    def _save(self, tally: EpochProgress | None) -> None:
        """Put the state into the store, between two epochs or within one.

        All workers wait for it: one that ends may end the others.
        """
        self._progress = tally.state() if tally else None
        if self.group.rank == 0:
            self._write()
        self.group.barrier()

    def _write(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reports": to_jsonable(self.reports),
            "micro_batch": self.stepper.micro_batch,
            "progress": self._progress,
            "steps": self._steps,
        }
        if self.ema:
            state["ema"] = self.ema.module.state_dict()
        write_state(self.folder / "state.pt", state)
