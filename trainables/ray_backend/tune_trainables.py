"""Wrap a trunk's training and a cell's adaptation as trials of Ray Tune.

Tune keeps no checkpoints of them: the store holds their state, under keys that outlive the
processes and Ray itself.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from ray import tune

from trainables.data.decode import known_set, prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError, UserError
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.cell import CellSpec, recorded_results
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
    reported: int = 0
    """Epochs, from the first on, that have been reported: they are not reported again."""
    stop_after_s: float | None = None
    """Seconds from the trial's start after which it stops at a step; None: there is no bound."""


@dataclass(frozen=True, kw_only=True)
class CellWork:
    """The work of a trial: a cell is adapted."""

    cell: CellSpec


Work = TypeVar("Work", TrunkWork, CellWork)


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a phase need beside their own configuration; it is pickled."""

    store: Place
    data: Place
    images_digest: str  # names the image set that the driver has read
    read: ReadOptions
    cache: Path  # node-local
    rungs: tuple[int, ...]
    threads: int = 1  # CPU threads of a trial
    refit: bool = False  # on train and val in one

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


class _StoreTrainable(tune.Trainable, Generic[Work]):
    """A trial whose process may be reused for others: ``_start`` begins each afresh.

    Its work is in its configuration, as ``work``, or is brought by :meth:`begin`.
    """

    work: Work | None = None
    _is_started = False

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Prepare the process."""
        assert context is not None
        self.context = context
        self.guard = PreemptionGuard()
        self.guard.install()  # Replaces Ray's handler, which would cut a step off.
        torch.set_num_threads(context.threads)
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

    def step(self) -> dict[str, Any]:
        """Do a part of the work, or end the trial where there is none."""
        if self.work is None:
            return {"done": True}
        if not self._is_started:
            self._start(self.work)
            self._is_started = True
        return self._step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the store holds the state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing: the store holds the state."""

    def _take(self, config: dict[str, Any]) -> None:
        self.work = config.get("work")
        self.workers: int = config.get("workers", 1)
        self.worker_resources: dict[str, float] = config.get("worker_resources", {})
        self._is_started = False

    def _start(self, work: Work) -> None:
        raise NotImplementedError

    def _step(self) -> dict[str, Any]:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError


class TrunkTrainable(_StoreTrainable[TrunkWork]):
    """One trunk; a step is an epoch. Epochs that the store holds are reported, not trained.

    Where its time is over, the result has no report, and the store has what was done of the epoch.

    Its configuration may name several ``workers``, and the ``worker_resources`` of each: then they
    train it, and this process waits for them.
    """

    _next_epoch: Callable[[], EpochReport] | None = None  # made when it is needed
    _end_workers: Callable[[], None] | None = None

    def _start(self, work: TrunkWork) -> None:
        self.spec, self.val_transforms = work.trunk, work.val_transforms
        self._recorded = recorded_reports(self.store, self.spec.key)
        self._stop_at = math.inf
        if work.stop_after_s is not None:
            self._stop_at = time.monotonic() + work.stop_after_s
        # Where the state is lost, what was reported is trained and reported again.
        self._reported = min(work.reported, len(self._recorded))

    def _stop(self) -> None:
        if self._end_workers is not None:
            self._end_workers()
        self._next_epoch, self._end_workers = None, None

    def cleanup(self) -> None:
        """End the trial's workers, if it has any."""
        self._stop()

    def _step(self) -> dict[str, Any]:
        """Report one epoch, trained if the store does not hold it yet."""
        if self._reported < len(self._recorded):
            report = self._recorded[self._reported]
        else:
            self._next_epoch = self._next_epoch or self._made_next_epoch()
            # A preempted epoch ends this process within the block: Tune sees it go, and retries.
            with self.guard.deferred():
                try:
                    report = self._next_epoch()
                except (PreemptedError, SweepError):
                    if self.guard.requested or not self._is_out_of_time:
                        raise
                    return {"report": None, "done": True}
        self._reported += 1
        return trunk_result(report, self.spec.recipe.epochs)

    @property
    def _is_out_of_time(self) -> bool:
        return time.monotonic() > self._stop_at

    def _should_stop(self) -> bool:
        """Whether the training is to stop at this step: its work is in the store then."""
        return self.guard.requested or self._is_out_of_time

    def _made_next_epoch(self) -> Callable[[], EpochReport]:
        """Give what trains the next epoch, or scores a trunk that is not to be trained."""
        context = self.context
        if self.workers > 1:
            config = WorkerConfig(
                spec=self.spec,
                val_transforms=self.val_transforms,
                rungs=context.rungs,
                store=context.store,
                cache=context.cache,
                open_images=context.open_images,
            )
            workers = TrunkWorkers(config, self.workers, self.worker_resources, self._should_stop)
            self._end_workers = workers.stop
            return workers.epoch
        training = TrunkTraining(
            self.spec,
            self.images,
            self.store,
            cache=context.cache,
            threads=context.threads,
            val_transforms=self.val_transforms,
            rungs=context.rungs,
            should_stop=self._should_stop,
        )
        return training.epoch if self.spec.recipe.epochs else training.score_untrained


def trunk_result(report: EpochReport, epochs: int) -> dict[str, Any]:
    """Give a trial's result for Tune: the report, and whether the trunk is done.

    Args:
        epochs: of the trunk's recipe.
    """
    return {"report": report, "done": report.diverged or report.epoch >= epochs}


class CellTrainable(_StoreTrainable[CellWork]):
    """One cell, in one step."""

    def _start(self, work: CellWork) -> None:
        self.cell: CellSpec = work.cell

    def _stop(self) -> None:
        pass

    def _step(self) -> dict[str, Any]:
        """Report the results of all arms; adapt, if the store does not hold them yet."""
        results = recorded_results(self.store, self.cell.key)
        if results is None:
            views = ViewCache(
                images=self.images, cache=self.context.cache, threads=self.context.threads
            )
            results = adapt_cell(self.cell, self.store, views)
        return {"results": tuple(results), "done": True}
