"""Wrap a trunk's training, a cell's adaptation and the reading of a set as trials of Ray Tune.

One kind of process does them all, so that it may be reused whatever comes next. Tune keeps no
checkpoints of them: the store holds their state, under keys that outlive the processes and Ray
itself.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from ray import tune

from trainables.data.decode import known_set, prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError, UserError
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.cell import CellSpec, recorded_results
from trainables.fixres.held_out_score import Reading, score_reading
from trainables.models.device import (
    PrecisionChoice,
    check_gpu_memory,
    take_gpu_share,
    use_precision,
    use_speed_ups,
)
from trainables.models.speed_ups import SpeedUp
from trainables.ray_backend.trial_node import errors_name_node, node_id
from trainables.ray_backend.worker_group import TrunkWorkers, WorkerConfig
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place
from trainables.training.preemption import PreemptedError, PreemptionGuard
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports
from trainables.transforms.eval_transform import EvalTransform


@dataclass(frozen=True, kw_only=True)
class TrunkWork:
    """The work of a trial: a trunk is trained on from where the store has it."""

    trunk: TrunkSpec
    val_transforms: tuple[EvalTransform, ...]
    rungs: tuple[int, ...]
    """The epochs after which val is scored."""
    reported: int = 0
    """Epochs, from the first on, that have been reported: they are not reported again."""
    stop_after_s: float | None = None
    """Seconds from the trial's start after which it stops at a step; None: there is no bound."""


@dataclass(frozen=True, kw_only=True)
class CellWork:
    """The work of a trial: a cell is adapted."""

    cell: CellSpec
    images_at_once: int | None = None
    """In the passes of the net, at first; None: as many as a step of training."""


@dataclass(frozen=True, kw_only=True)
class ReadingWork:
    """The work of a trial: arms of a finished cell are scored on a set, as they are served."""

    reading: Reading


Work = TrunkWork | CellWork | ReadingWork


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a run need beside their own configuration; it is pickled."""

    store: Place
    data: Place
    images_digest: str  # names the image set that the driver has read
    read: ReadOptions
    cache: Path  # node-local
    refit: bool = False  # on train and val in one
    precision: PrecisionChoice = "auto"  # of nets on GPUs
    speed_ups: tuple[SpeedUp, ...] = ()  # of training
    gpu_memory_gb: float | None = None  # of the smallest GPU; None: nothing is said

    def open_images(self) -> ImageSet:
        """Open this node's image set, decoded here if it is not yet; for a refit, val is in train.

        Where the node has the driver's set, the data is not looked at: listing a large one takes
        minutes, and its store may be out of reach for a while.

        Raises:
            UserError: this node sees other images than the driver.
        """
        images = known_set(self.cache, self.images_digest, self.read)
        if images is None:
            images = prepare(self.data, self.cache, self.read, patient=True)
        if images.digest != self.images_digest:
            raise UserError(
                f"`data` {self.data} holds other images on this node ({images.digest}) than on the "
                f"head ({self.images_digest}): make one folder visible to all nodes, "
                "and leave it as it is while the sweep runs."
            )
        return images.merged() if self.refit else images


class _Job(Protocol):
    """Work under way in a process."""

    def step(self) -> dict[str, Any]:
        """Do a part of it, and give what Tune is told."""

    def stop(self) -> None:
        """End what is under way, before the process takes other work."""


class StoreTrainable(tune.Trainable):
    """A trial of any work, whose process may be reused for others: each begins afresh.

    Its work is in its configuration, as ``work``, or is brought by :meth:`begin`; so are the CPU
    ``threads`` that it computes with. The configuration of a trunk may name several ``workers``,
    and the ``worker_resources`` of each: then they train it, and this process waits for them.
    """

    work: Work | None = None
    _job: _Job | None = None

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Prepare the process."""
        assert context is not None
        self.context = context
        self.guard = PreemptionGuard()
        self.guard.install()  # Replaces Ray's handler, which would cut a step off.
        with errors_name_node():
            self.images = context.open_images()
        self.store = Store(context.store)
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self._stop()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._take(new_config)
        return True

    def begin(self, work: Work | None) -> None:
        """Take the work that was chosen when this process was ready for it; None: there is none."""
        self.work = work

    def node_id(self) -> str:
        """Return the id of the node that this process runs on, as Ray has it."""
        return node_id()

    def step(self) -> dict[str, Any]:
        """Do a part of the work, or end the trial where there is none."""
        if self.work is None:
            return {"done": True}
        if self._job is None:
            self._job = self._job_of(self.work)
        return self._job.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the store holds the state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing: the store holds the state."""

    def cleanup(self) -> None:
        """End the trial's workers, if it has any."""
        self._stop()

    def _take(self, config: dict[str, Any]) -> None:
        self.work = config.get("work")
        self.workers: int = config.get("workers", 1)
        self.worker_resources: dict[str, float] = config.get("worker_resources", {})
        self.threads: int = config.get("threads", 1)
        torch.set_num_threads(self.threads)
        # With several workers the devices are theirs. On a GPU that this process sees all the same
        # it would take memory that others were promised.
        alone = self.workers == 1
        take_gpu_share(config.get("resources", {}).get("GPU", 1) if alone else 0)
        use_precision(self.context.precision)
        if alone:
            with errors_name_node():
                check_gpu_memory(self.context.gpu_memory_gb)
            use_speed_ups(self.context.speed_ups)

    def _stop(self) -> None:
        if self._job is not None:
            self._job.stop()
        self._job = None

    def _job_of(self, work: Work) -> _Job:
        match work:
            case TrunkWork():
                return _TrunkJob(self, work)
            case CellWork():
                return _CellJob(self, work)
            case ReadingWork():
                return _ReadingJob(self, work)

    @property
    def views(self) -> ViewCache:
        """The views of the images on this node."""
        return ViewCache(images=self.images, cache=self.context.cache, threads=self.threads)


class _TrunkJob:
    """One trunk; a step is an epoch. Epochs that the store holds are reported, not trained.

    Where its time is over, the result has no report, and the store has what was done of the epoch.
    """

    def __init__(self, process: StoreTrainable, work: TrunkWork):
        self._process = process
        self._guard = process.guard
        self._spec, self._val_transforms, self._rungs = work.trunk, work.val_transforms, work.rungs
        self._next_epoch: Callable[[], EpochReport] | None = None  # made when it is needed
        self._end_workers: Callable[[], None] | None = None
        self._recorded = recorded_reports(process.store, self._spec.key)
        self._stop_at = math.inf
        if work.stop_after_s is not None:
            self._stop_at = time.monotonic() + work.stop_after_s
        # Where the state is lost, what was reported is trained and reported again.
        self._reported = min(work.reported, len(self._recorded))

    def stop(self) -> None:
        if self._end_workers is not None:
            self._end_workers()
        self._next_epoch, self._end_workers = None, None

    def step(self) -> dict[str, Any]:
        """Report one epoch, trained if the store does not hold it yet."""
        if self._reported < len(self._recorded):
            report = self._recorded[self._reported]
        else:
            self._next_epoch = self._next_epoch or self._made_next_epoch()
            # A preempted epoch ends this process within the block: Tune sees it go, and retries.
            with self._guard.deferred():
                try:
                    report = self._next_epoch()
                except (PreemptedError, SweepError):
                    if self._guard.requested or not self._is_out_of_time:
                        raise
                    return {"report": None, "done": True}
        self._reported += 1
        return trunk_result(report, self._spec.recipe.epochs)

    @property
    def _is_out_of_time(self) -> bool:
        return time.monotonic() > self._stop_at

    def _should_stop(self) -> bool:
        """Whether the training is to stop at this step: its work is in the store then."""
        return self._guard.requested or self._is_out_of_time

    def _made_next_epoch(self) -> Callable[[], EpochReport]:
        """Give what trains the next epoch, or scores a trunk that is not to be trained."""
        process, context = self._process, self._process.context
        if process.workers > 1:
            config = WorkerConfig(
                spec=self._spec,
                val_transforms=self._val_transforms,
                rungs=self._rungs,
                store=context.store,
                cache=context.cache,
                open_images=context.open_images,
                precision=context.precision,
                speed_ups=context.speed_ups,
            )
            workers = TrunkWorkers(
                config, process.workers, process.worker_resources, self._should_stop
            )
            self._end_workers = workers.stop
            return workers.epoch
        training = TrunkTraining(
            self._spec,
            process.images,
            process.store,
            cache=context.cache,
            threads=process.threads,
            val_transforms=self._val_transforms,
            rungs=self._rungs,
            should_stop=self._should_stop,
            speed_ups=context.speed_ups,
        )
        return training.epoch if self._spec.recipe.epochs else training.score_untrained


def trunk_result(report: EpochReport, epochs: int) -> dict[str, Any]:
    """Give a trial's result for Tune: the report, and whether the trunk is done.

    Args:
        epochs: of the trunk's recipe.
    """
    return {"report": report, "done": report.diverged or report.epoch >= epochs}


class _CellJob:
    """One cell, in one step."""

    def __init__(self, process: StoreTrainable, work: CellWork):
        self._process, self._cell = process, work.cell
        self._images_at_once = work.images_at_once

    def stop(self) -> None:
        pass

    def step(self) -> dict[str, Any]:
        """Report the results of all arms; adapt, if the store does not hold them yet."""
        process = self._process
        results = recorded_results(process.store, self._cell.key)
        if results is None:
            results = adapt_cell(
                self._cell, process.store, process.views, images_at_once=self._images_at_once
            )
        return {"results": tuple(results), "done": True}


class _ReadingJob:
    """One set, in one step: what the store has of it is not read again."""

    def __init__(self, process: StoreTrainable, work: ReadingWork):
        self._process, self._reading = process, work.reading

    def stop(self) -> None:
        pass

    def step(self) -> dict[str, Any]:
        """Leave the scores and the predictions in the store."""
        process = self._process
        score_reading(self._reading, process.store, process.views, process.context.read)
        return {"done": True}
