"""Train one trunk: a variant, fine-tuned whole at its train resolution, epoch by epoch.

Knows neither scheduler nor tracker: call :meth:`TrunkTraining.epoch` as often as you like, then
:func:`.trunk.finalize_trunk`. Each epoch ends in the store, so that any process can resume the
training from there; an epoch that is long, or interrupted, is saved within.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch

from trainables.data.image_set import ImageSet
from trainables.data.loader import TrainBatch, copied_batches, train_batches
from trainables.data.view_cache import ViewCache
from trainables.errors import UserError
from trainables.evaluation.kept_probe import ProbeSpec, fit_once
from trainables.evaluation.metrics import NotFiniteError, Score, predicted, score
from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.models.device import device_name, pick_device
from trainables.models.speed_ups import SpeedUp
from trainables.storage.artifact_store import Store
from trainables.training.class_balance import (
    check_balance,
    class_weights,
    drawn_images,
    fitted_class_weights,
)
from trainables.training.distributed import WorkerGroup
from trainables.training.epoch_progress import EpochProgress
from trainables.training.moving_average import MovingAverage
from trainables.training.optim import lr_factor, make_optimizer
from trainables.training.preemption import PreemptedError
from trainables.training.rung_hits import write_rung_hits
from trainables.training.train_step import MIN_MICRO_BATCH, TrainStep
from trainables.training.trunk import EpochReport, TrunkSpec, start_of
from trainables.training.trunk_checkpoint import TrainingPosition, TrunkCheckpoint
from trainables.training.validation import shared_logits
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.fast_resize import kernel_here

SAVE_EVERY_S = 300.0  # within an epoch
ALONE = WorkerGroup()


class TrunkTraining:
    """One trunk in training, resumed from the store where it has been begun.

    Several workers may train it together, each a process with a TrunkTraining of the same
    arguments. Every batch is shared among them and is one step of the optimiser; batch norm and
    dropout see it whole. So the result is that of one worker, up to rounding, as far as memory
    holds the batch without splitting it. The first one alone writes the trunk to the store. All
    resume from there, not necessarily as many.

    Forward passes run under autocast, in the arithmetic of the device.
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
        speed_ups: Sequence[SpeedUp] = (),
    ):
        """Build the model, or resume its training.

        Args:
            cache: node-local folder for test views.
            threads: CPU threads for cropping and, on a CPU, for the net.
            val_transforms: what val is scored through, each with a test resolution of its own.
            rungs: the epochs after which val is scored.
            should_stop: asked after each step whether this process is to end; one worker of
                whom that is true ends all.
            group: this worker among those that train the trunk.
            device: of this worker; None: the GPU if there is one.
            speed_ups: of its steps.

        Raises:
            UserError: there are too many workers for a batch, or classes are balanced twice.
            ValueError: the trunk is finished.
        """
        self.spec, self.images, self.store = spec, images, store
        self.views = ViewCache(images=images, cache=cache, threads=threads)
        self.val_transforms, self.rungs, self._should_stop = val_transforms, rungs, should_stop
        self._train_images = images.split("train")
        self._images_per_batch = min(spec.recipe.batch_size, len(self._train_images))
        self._steps_per_epoch = len(self._train_images) // self._images_per_batch
        self.group, self.device = group, device or pick_device()
        self._speed_ups = speed_ups
        self._device_name = device_name(self.device, threads, group.world_size)
        check_balance(spec.recipe.sampling, spec.recipe.class_weights)
        if group.world_size > 1 and self._images_per_batch < MIN_MICRO_BATCH * group.world_size:
            raise UserError(
                f"`workers_per_trial` {group.world_size} leaves less than {MIN_MICRO_BATCH} images "
                "of a batch for each, fewer than a step can be split into: give fewer workers or a "
                "larger `batch_size`."
            )
        self.variant = variants.get(spec.variant)
        self.preprocessing = variants.preprocessing(self.variant)
        self.folder = store.trunk(spec.key)
        self._build()
        self._resume()

    def _build(self) -> None:
        recipe, hyper = self.spec.recipe, self.spec.hyper
        # The classifier may start from random weights.
        torch.manual_seed(self.spec.training_seed)
        drop_rate = self.variant.dropout if recipe.dropout else 0.0
        model = backbone.build(
            self.variant, len(self.images.classes), drop_rate=drop_rate, drop_path=recipe.drop_path
        )
        state = start_of(self.spec, self.store)
        if state is not None:
            backbone.load_trunk(model, state)
        self.model = backbone.to_device(model, self.device)
        self.optimizer = make_optimizer(
            self.model,
            recipe.optimizer,
            lr=hyper.lr,
            weight_decay=hyper.weight_decay,
            layer_decay=recipe.layer_decay,
        )
        self.ema = None
        if recipe.ema_decay:
            self.ema = MovingAverage(self.model, recipe.ema_decay, warmup=recipe.ema_warmup)

    def _resume(self) -> None:
        """Take up what the store holds: whole epochs, and what was done of the next."""
        self._checkpoint = TrunkCheckpoint(
            self.store,
            self.spec,
            model=self.model,
            optimizer=self.optimizer,
            ema=self.ema,
            group=self.group,
        )
        position = self._checkpoint.resume()
        self.reports = list(position.reports)
        self._epoch_progress, self._steps = position.epoch_progress, position.steps
        self._train_step = TrainStep(
            self.model,
            self.optimizer,
            self.preprocessing,
            label_smoothing=self.spec.hyper.label_smoothing,
            device=self.device,
            group=self.group,
            class_weights=class_weights(
                self._train_images.labels, len(self.images.classes), self.spec.recipe.class_weights
            ),
            micro_batch=position.micro_batch,
            loss_scale=position.loss_scale,
            clip_grad=self.spec.recipe.clip_grad,
            speed_ups=self._speed_ups,
        )

    @property
    def trained_epochs(self) -> int:
        """How many epochs are over, scoring as epoch 0 included."""
        return len(self.reports)

    @property
    def evaluated_model(self) -> Net:
        """The moving average where there is one, else the model itself."""
        return cast(Net, self.ema.module) if self.ema else self.model

    def epoch(self) -> EpochReport:
        """Train one more epoch, score it if it is a rung, and put it into the store.

        One that was interrupted is resumed, to the same result.

        Raises:
            PreemptedError: this process is to end. What was done of the epoch is in the store.
            SweepError: not even the smallest part of a batch fits into memory.
        """
        number = self.trained_epochs + 1
        # Dropout draws from this generator, in all workers the same.
        torch.manual_seed(self.spec.training_seed * 1_000_003 + number)
        starts_from_probe = number == 1 and self.spec.is_probed and self._epoch_progress is None
        fit_s, wait_s = self._start_from_probe() if starts_from_probe else (0.0, 0.0)
        progress = EpochProgress(self.device, self.group, probe_s=fit_s, probe_wait_s=wait_s)
        if self._epoch_progress is not None:
            progress.restore(self._epoch_progress)
        self._train(number, progress)
        loss, hits = progress.totals()
        mean_loss = loss / progress.images
        self.optimizer.zero_grad(set_to_none=True)  # what is scored may need their memory
        self.group.broadcast(self.model.buffers())
        self.group.broadcast(self.evaluated_model.buffers())
        is_finite = math.isfinite(mean_loss) and self._weights_are_finite()
        (diverged,) = self.group.any_true(not is_finite)
        val: dict[int, Score] = {}
        if number in self.rungs and not diverged:
            try:
                val = self._validate(number, progress)
            except NotFiniteError:  # Finite weights, but an overflow on val: every worker sees it.
                diverged = True
        report = EpochReport(
            epoch=number,
            loss=mean_loss if math.isfinite(mean_loss) else None,
            train_top1=hits / progress.images,
            images=progress.images,
            lr=self._lr(number * self._steps_per_epoch - 1),
            val=val,
            seconds=round(progress.seconds, 3),
            at=int(time.time() * 1000),
            diverged=diverged,
            micro_batch=self._train_step.micro_batch,
            # Within an epoch micro-batches only become smaller.
            frozen_norms=not self.spec.recipe.freeze_batch_norm
            and self._train_step.freezes_norms(self._images_per_batch),
            device=self._device_name,
            probe_s=round(progress.probe_s, 3),
            probe_wait_s=round(progress.probe_wait_s, 3),
            speed_ups=self._train_step.speed_ups,
            resize=kernel_here(),
        )
        self._end_epoch(report)
        return report

    def score_untrained(self) -> EpochReport:
        """Score the trunk untrained, as epoch 0, and put it into the store.

        Its weights are then the pretrained ones, their classifier included.

        Raises:
            PreemptedError: this process is to end; nothing is kept of the scoring.
            SweepError: not even a single image fits into memory, or logits are not finite.
        """
        began = time.monotonic()
        report = EpochReport(
            epoch=0,
            loss=None,
            train_top1=None,
            images=0,
            lr=0.0,
            val=self._validate(0, None),
            seconds=round(time.monotonic() - began, 3),
            at=int(time.time() * 1000),
            device=self._device_name,
        )
        self._end_epoch(report)
        return report

    def _start_from_probe(self) -> tuple[float, float]:
        """Make the classifier a linear probe of the net as it is, in the moving average too.

        All workers take the first one's.

        Returns:
            The seconds that the workers took to fit it, 0 where it was fitted elsewhere, and those
            that this one waited for it.
        """
        recipe, images = self.spec.recipe, self.images
        kind = fitted_class_weights(recipe.sampling, recipe.class_weights)
        spec = ProbeSpec(
            weights=self.spec.weights,
            train_res=self.spec.train_res,
            images=images.digest,
            class_weights=kind,
        )
        began = time.monotonic()
        probe, own_s = fit_once(
            spec,
            self.store,
            self.model,
            self.views,
            class_weights=class_weights(self._train_images.labels, len(images.classes), kind),
            batch_size=self._images_per_batch,
            device=self.device,
        )
        took_s = time.monotonic() - began
        fit_s = float(self.group.all_gather(torch.tensor(own_s, dtype=torch.float64)).max())
        self.group.broadcast(probe)
        for model in {self.model, self.evaluated_model}:
            backbone.classifier_of(model).load_state_dict(probe._asdict())
        return fit_s, max(0.0, took_s - fit_s)

    def _train(self, number: int, progress: EpochProgress) -> None:
        """Train what is left of epoch ``number``."""
        backbone.into_training(
            self.model,
            frozen_norms=self.spec.recipe.freeze_batch_norm,
            classifier_alone=number <= self.spec.head_only_epochs,
        )
        if number == self.spec.head_only_epochs + 1:
            self._train_step.train_other_parts()
        if not progress.batches:  # in whichever process the epoch begins
            self._train_step.try_more(self._images_per_batch)
        saved = time.monotonic()

        def local_flags() -> tuple[bool, bool]:
            return self._should_stop(), time.monotonic() - saved > SAVE_EVERY_S

        for batch in self._batches(number, progress.batches):
            step = (number - 1) * self._steps_per_epoch + progress.batches
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = self._lr(step) * parameters.get("lr_scale", 1.0)
            result, (stop, save) = self._train_step.step(batch, self._images_per_batch, local_flags)
            if self.ema:
                self.ema.update(self.model, step=step)
            progress.add(result, self._images_per_batch)
            self._steps += 1
            if stop or save:
                self._save(progress)
                saved = time.monotonic()
            if stop:
                raise PreemptedError

    def _batches(self, number: int, start: int) -> Iterator[TrainBatch]:
        """This worker's shares of the batches of epoch ``number``, from batch ``start`` on."""
        recipe, seed = self.spec.recipe, self.spec.training_seed
        batches = train_batches(
            self._train_images,
            self.spec.train_res,
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation,
            distortions=recipe.distortions,
            preprocessing=self.preprocessing,
            seed=(seed, number),
            threads=self.views.threads,
            drawn=drawn_images(self._train_images.labels, recipe.sampling, seed=seed, epoch=number),
            start=start,
            rank=self.group.rank,
            world=self.group.world_size,
            device=self.device,
        )
        return copied_batches(batches, self.device)

    def _lr(self, step: int) -> float:
        recipe = self.spec.recipe
        return self.spec.hyper.lr * lr_factor(
            step,
            steps=recipe.epochs * self._steps_per_epoch,
            warmup=round(recipe.warmup_epochs * self._steps_per_epoch),
            schedule=recipe.schedule,
        )

    def _weights_are_finite(self) -> bool:
        """Check the weights: the last step's loss is from before it."""
        state = self.evaluated_model.state_dict()
        return bool(torch.stack([tensor.isfinite().all() for tensor in state.values()]).all())

    def _validate(self, number: int, progress: EpochProgress | None) -> dict[int, Score]:
        """Score val in the test transform at each test resolution, in shares.

        Its hits are kept under epoch ``number``. Interrupted, it saves the epoch's training, if
        there was any, and nothing of its own.
        """
        labels = torch.tensor(self.images.split("val").labels)
        scores, hits = {}, {}
        for transform in self.val_transforms:
            logits = shared_logits(
                self.evaluated_model,
                self.views.view("val", transform),
                self.preprocessing,
                batch_size=self.spec.recipe.batch_size,
                device=self.device,
                group=self.group,
                should_stop=self._should_stop,
            )
            if logits is None:
                if progress is not None:
                    self._save(progress)
                raise PreemptedError
            scores[transform.test_res] = score(logits, labels, "val")
            hits[transform.test_res] = predicted(logits) == labels
        if hits and self.group.rank == 0:
            write_rung_hits(self.store, self.spec.key, number, hits)
        return scores

    def _end_epoch(self, report: EpochReport) -> None:
        """Put an epoch that is over into the store."""
        self.reports.append(report)
        self._checkpoint.log_epoch(report, self._steps)
        self._steps = 0
        self._save(None)

    def _save(self, progress: EpochProgress | None) -> None:
        """Put the state into the store, between two epochs or within one."""
        self._epoch_progress = progress.state() if progress else None
        self._checkpoint.save(
            TrainingPosition(
                reports=tuple(self.reports),
                epoch_progress=self._epoch_progress,
                steps=self._steps,
                micro_batch=self._train_step.micro_batch,
                loss_scale=self._train_step.loss_scale,
            )
        )
