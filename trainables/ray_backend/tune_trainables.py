"""The Ray Tune wrappers: thin. Beside them only `workers` imports ray in this package."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from trainables.data.decode import known_set, prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.errors import UserError
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.cell import CellSpec, recorded_results
from trainables.ray_backend.worker_group import TrunkWorkers, WorkerConfig
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place
from trainables.storage.hashing import to_jsonable
from trainables.training.preemption import PreemptionGuard
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports
from trainables.transforms.eval_transform import EvalTransform


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What every trial of a sweep is told."""

    store: Place
    data: Place
    images_digest: str  # that the driver found
    read: ReadOptions
    cache: Path
    rungs: tuple[int, ...]
    threads: int = 1  # as it is placed
    refit: bool = False  # on train and val in one

    def open_images(self) -> ImageSet:
        """This node's image set: decoded here if it is not yet, and the same as the driver's.

        A refit's has val in train. Where the node has the driver's set, the data is not looked at:
        listing a large one takes minutes, and its store may be out of reach for a while.

        Raises:
            UserError: this node sees other images.
        """
        found = known_set(self.cache, self.images_digest, self.read)
        if found is None:
            found = prepare(self.data, self.cache, self.read, patient=True)
        if found.digest != self.images_digest:
            raise UserError(
                f"`data` {self.data} holds other images on this node ({found.digest}) than on the "
                f"head ({self.images_digest}): make one folder visible to all nodes, "
                "and leave it as it is while the sweep runs."
            )
        return found.merged() if self.refit else found


class _StoreTrainable(tune.Trainable):
    """A trial in a reused process: ``_start`` afresh for each."""

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        assert context is not None
        self.context = context
        self.notice = PreemptionGuard()
        self.notice.install()  # in place of Ray's handler, which ends a step at hand
        torch.set_num_threads(context.threads)
        self.images = context.open_images()
        self.store = Store(context.store)
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._stop()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._start(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the store holds the state, under a key that outlives this sweep's processes."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, likewise."""

    def _start(self, config: dict[str, Any]) -> None:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError


class TrunkTrainable(_StoreTrainable):
    """One trunk; a step is an epoch. Epochs that the store holds are reported, not trained.

    Its configuration may name several ``workers``, and the ``worker_resources`` of each: then they
    train it, and this process waits for them.
    """

    def _start(self, config: dict[str, Any]) -> None:
        self.spec: TrunkSpec = config["trunk"]
        self.val_transforms: tuple[EvalTransform, ...] = config["val_transforms"]
        self.workers: int = config.get("workers", 1)
        self.worker_resources: dict[str, float] = config.get("worker_resources", {})
        self.begun: Callable[[], EpochReport] | None = None
        self.end: Callable[[], None] = lambda: None
        self.recorded = recorded_reports(self.store, self.spec.key)
        self.reported = 0

    def _stop(self) -> None:
        self.end()
        self.begun, self.end = None, lambda: None

    def cleanup(self) -> None:
        self._stop()

    def step(self) -> dict[str, Any]:
        if self.reported < len(self.recorded):
            report = self.recorded[self.reported]
        else:
            self.begun = self.begun or self._begin()
            with (
                self.notice.deferred()
            ):  # which ends this process: Tune sees it go, and tries again
                report = self.begun()
        self.reported += 1
        return trunk_result(report, self.spec.recipe.epochs)

    def _begin(self) -> Callable[[], EpochReport]:
        """What trains an epoch, or scores a trunk that is to be taken as it is."""
        context = self.context
        if self.workers > 1:
            work = WorkerConfig(
                spec=self.spec,
                val_transforms=self.val_transforms,
                rungs=context.rungs,
                store=context.store,
                cache=context.cache,
                open_images=context.open_images,
            )
            group = TrunkWorkers(
                work, self.workers, self.worker_resources, lambda: self.notice.requested
            )
            self.end = group.stop
            return group.epoch
        training = TrunkTraining(
            self.spec,
            self.images,
            self.store,
            cache=context.cache,
            threads=context.threads,
            val_transforms=self.val_transforms,
            rungs=context.rungs,
            should_stop=lambda: self.notice.requested,
        )
        return training.epoch if self.spec.recipe.epochs else training.score_untrained


def trunk_result(report: EpochReport, epochs: int) -> dict[str, Any]:
    """What Tune is told of an epoch."""
    return {
        "report": json.dumps(to_jsonable(report)),
        "done": report.diverged or report.epoch >= epochs,
    }


class CellTrainable(_StoreTrainable):
    """One cell, in one step."""

    def _start(self, config: dict[str, Any]) -> None:
        self.cell: CellSpec = config["cell"]

    def _stop(self) -> None:
        pass

    def step(self) -> dict[str, Any]:
        results = recorded_results(self.store, self.cell.key)
        if results is None:
            place = ViewCache(
                images=self.images, cache=self.context.cache, threads=self.context.threads
            )
            results = adapt_cell(self.cell, self.store, place)
        return {"results": json.dumps(to_jsonable(results)), "done": True}
