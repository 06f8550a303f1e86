"""Train one trunk by several workers, which Ray Train starts and the trial sends requests to."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer, get_device

from trainables.data.image_set import ImageSet
from trainables.errors import SweepError
from trainables.models.device import (
    PrecisionChoice,
    take_gpu_share,
    use_precision,
    use_speed_ups,
)
from trainables.models.speed_ups import SpeedUp
from trainables.ray_backend.epoch_channel import EpochChannel
from trainables.ray_backend.guarded_torch import GuardedTorchConfig, worker_guard
from trainables.ray_backend.placement_groups import remove_orphaned_groups
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place
from trainables.storage.hashing import to_jsonable
from trainables.training.distributed import WorkerGroup
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import EpochReport, TrunkSpec, epoch_report_from_json
from trainables.transforms.eval_transform import EvalTransform

POLL_S = 0.5
CLEAN_UP_EVERY_S = 5.0  # orphaned placement groups, while an epoch is waited for
ENDING_S = 60.0  # for workers to save what they have done, and to end


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What each worker needs to train its part of a trunk; it is pickled."""

    spec: TrunkSpec
    val_transforms: tuple[EvalTransform, ...]
    rungs: tuple[int, ...]
    store: Place
    cache: Path  # node-local
    open_images: Callable[[], ImageSet]  # on the worker's node
    precision: PrecisionChoice = "auto"
    speed_ups: tuple[SpeedUp, ...] = ()


class TrunkWorkers:
    """Workers that train one trunk, an epoch at a time.

    They wait for each epoch to be requested, so that a trunk that is stopped is trained no further.
    """

    def __init__(
        self,
        config: WorkerConfig,
        count: int,
        resources: Mapping[str, float],
        should_stop: Callable[[], bool],
    ):
        """Start the workers, in the background.

        Args:
            count: how many.
            resources: of each worker: "CPU", "GPU".
            should_stop: whether the calling process is to end; asked while it waits.
        """
        self._should_stop = should_stop
        self._channel: Any = ray.remote(num_cpus=0)(EpochChannel).remote()
        self._requested = 0
        self._cleaned_up_s = 0.0
        self._error: BaseException | None = None
        for name in ("ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._thread = threading.Thread(
            target=self._run, args=(config, count, resources), name="workers", daemon=True
        )
        self._thread.start()

    def _run(self, config: WorkerConfig, count: int, resources: Mapping[str, float]) -> None:
        scratch = tempfile.mkdtemp(prefix="fixres-train-")
        resources = {name: amount for name, amount in resources.items() if amount}
        uses_gpus = "GPU" in resources
        try:
            TorchTrainer(
                _run_worker,
                train_loop_config={
                    # Ray Train's controller unpickles all of this, and would import what only
                    # training needs: it starts twice as fast where it finds a reference.
                    "config": ray.put(config),
                    "channel": self._channel,
                    "threads": max(1, int(resources.get("CPU", 1))),
                    "gpus": resources.get("GPU", 0),
                },
                # Tensors on the CPU go over gloo: what workers agree on does not wait for a GPU.
                torch_config=GuardedTorchConfig(
                    backend="cpu:gloo,cuda:nccl" if uses_gpus else "gloo"
                ),
                scaling_config=train.ScalingConfig(
                    num_workers=count, use_gpu=uses_gpus, resources_per_worker=resources
                ),
                run_config=train.RunConfig(name=uuid.uuid4().hex, storage_path=scratch),
            ).fit()
        except BaseException as error:  # Raised again where an epoch is waited for.
            self._error = error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def epoch(self) -> EpochReport:
        """Have one more epoch trained, and wait for its report.

        Raises:
            SweepError: the workers have ended. What they have done is in the store.
        """
        self._requested += 1
        self._channel.request_epoch.remote(self._requested)
        report = self._channel.get_report.remote(self._requested)
        while not ray.wait([report], timeout=POLL_S)[0]:
            self._clean_up()
            if self._should_stop():
                self._channel.request_stop.remote()
                self._thread.join(ENDING_S)
            if self._should_stop() or not self._thread.is_alive():
                raise SweepError(f"The workers of a trunk ended: {self._error}") from self._error
        return epoch_report_from_json(json.loads(ray.get(report)))

    def _clean_up(self) -> None:
        """Free what killed trials have reserved: these workers may be waiting for just that.

        A retried trial waits for the resources of its own former workers first of all.
        """
        if time.monotonic() - self._cleaned_up_s > CLEAN_UP_EVERY_S:
            remove_orphaned_groups()
            self._cleaned_up_s = time.monotonic()

    def stop(self) -> None:
        """Let the workers end, which they do where they wait for an epoch to be requested."""
        self._channel.close.remote()
        self._thread.join(ENDING_S)
        ray.kill(self._channel)


def _run_worker(loop_config: dict[str, Any]) -> None:
    """Train a worker's part of the trunk, from the worker's start to its end.

    Raises:
        PreemptedError: a worker, or the trial, is to end.
    """
    config: WorkerConfig = ray.get(loop_config["config"])
    channel, threads = loop_config["channel"], loop_config["threads"]
    torch.set_num_threads(threads)
    take_gpu_share(loop_config["gpus"])
    use_precision(config.precision)
    use_speed_ups(config.speed_ups)
    stop_requested = channel.wait_for_stop.remote()
    context = train.get_context()
    group = WorkerGroup(rank=context.get_world_rank(), world_size=context.get_world_size())
    training = TrunkTraining(
        config.spec,
        config.open_images(),
        Store(config.store),
        cache=config.cache,
        threads=threads,
        val_transforms=config.val_transforms,
        rungs=config.rungs,
        should_stop=lambda: (
            worker_guard.requested or bool(ray.wait([stop_requested], timeout=0)[0])
        ),
        group=group,
        device=get_device(),
        speed_ups=config.speed_ups,
    )
    epoch = 1
    while ray.get(channel.wait_for_request.remote(epoch)):
        with worker_guard.deferred():
            report = training.epoch() if config.spec.recipe.epochs else training.score_untrained()
        if group.rank == 0:
            ray.get(channel.put_report.remote(epoch, json.dumps(to_jsonable(report))))
        epoch += 1
