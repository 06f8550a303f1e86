"""Several workers for one trunk: Ray Train starts them, the trial's process says when to go on."""

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
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from trainables.data.image_set import ImageSet
from trainables.errors import SweepError
from trainables.ray_backend.epoch_channel import EpochChannel
from trainables.ray_backend.placement_groups import remove_orphaned_groups
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place
from trainables.storage.hashing import to_jsonable
from trainables.training.distributed import WorkerGroup
from trainables.training.preemption import PreemptionGuard
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import EpochReport, TrunkSpec, epoch_report_from_json
from trainables.transforms.eval_transform import EvalTransform

POLL_S = 0.5
RELEASE_S = 5.0  # between looks for what killed trials have left reserved
ENDING_S = 60.0  # for workers to put away what they have, and to end

_notice = PreemptionGuard()  # a worker's


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What each worker is told of the trunk."""

    spec: TrunkSpec
    val_transforms: tuple[EvalTransform, ...]
    rungs: tuple[int, ...]
    store: Place
    cache: Path  # node-local
    open_images: Callable[[], ImageSet]  # on the worker's node


class TrunkWorkers:
    """Workers that train one trunk, an epoch at a time.

    They wait for each epoch to be asked for, so that a trunk that is stopped is trained no further.
    """

    def __init__(
        self,
        work: WorkerConfig,
        count: int,
        resources: Mapping[str, float],
        should_stop: Callable[[], bool],
    ):
        """Args:
        resources: of each worker: "CPU", "GPU".
        should_stop: whether the calling process is to end; asked while it waits.
        """
        self._should_stop = should_stop
        self._mailbox: Any = ray.remote(num_cpus=0)(EpochChannel).remote()
        self._asked = 0
        self._released_s = 0.0
        self._error: BaseException | None = None
        for name in ("ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._thread = threading.Thread(
            target=self._run, args=(work, count, resources), name="workers", daemon=True
        )
        self._thread.start()

    def _run(self, work: WorkerConfig, count: int, resources: Mapping[str, float]) -> None:
        scratch = tempfile.mkdtemp(prefix="fixres-train-")
        resources = {name: amount for name, amount in resources.items() if amount}
        uses_gpus = "GPU" in resources
        try:
            TorchTrainer(
                _train,
                train_loop_config={
                    "work": work,
                    "mailbox": self._mailbox,
                    "threads": max(1, int(resources.get("CPU", 1))),
                },
                # What is agreed on in a step goes over gloo: it does not wait for the GPU.
                torch_config=_Config(backend="cpu:gloo,cuda:nccl" if uses_gpus else "gloo"),
                scaling_config=train.ScalingConfig(
                    num_workers=count, use_gpu=uses_gpus, resources_per_worker=resources
                ),
                run_config=train.RunConfig(name=uuid.uuid4().hex, storage_path=scratch),
            ).fit()
        except BaseException as error:  # it is raised where an epoch is waited for
            self._error = error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def epoch(self) -> EpochReport:
        """Have one more epoch trained, and wait for it.

        Raises:
            SweepError: the workers have ended. What they have done is in the store.
        """
        self._asked += 1
        self._mailbox.ask.remote(self._asked)
        report = self._mailbox.report_of.remote(self._asked)
        while not ray.wait([report], timeout=POLL_S)[0]:
            self._release()
            if self._should_stop():
                self._mailbox.warn.remote()
                self._thread.join(ENDING_S)
            if self._should_stop() or not self._thread.is_alive():
                raise SweepError(f"The workers of a trunk ended: {self._error}") from self._error
        return epoch_report_from_json(json.loads(ray.get(report)))

    def _release(self) -> None:
        """The workers may be waiting for what those of a killed trial hold, this one's first."""
        if time.monotonic() - self._released_s > RELEASE_S:
            remove_orphaned_groups()
            self._released_s = time.monotonic()

    def stop(self) -> None:
        """Let the workers end, which they do where they wait for an epoch to be asked for."""
        self._mailbox.close.remote()
        self._thread.join(ENDING_S)
        ray.kill(self._mailbox)


def _train(told: dict[str, Any]) -> None:
    """One worker, from its start to its end.

    Raises:
        PreemptedError: a worker, or the trial, is to end.
    """
    work: WorkerConfig = told["work"]
    mailbox = told["mailbox"]
    torch.set_num_threads(told["threads"])
    warned = mailbox.warned.remote()
    context = train.get_context()
    group = WorkerGroup(rank=context.get_world_rank(), world_size=context.get_world_size())
    training = TrunkTraining(
        work.spec,
        work.open_images(),
        Store(work.store),
        cache=work.cache,
        threads=told["threads"],
        val_transforms=work.val_transforms,
        rungs=work.rungs,
        should_stop=lambda: _notice.requested or bool(ray.wait([warned], timeout=0)[0]),
        group=group,
        device=get_device(),
    )
    epoch = 1
    while ray.get(mailbox.asked.remote(epoch)):
        with _notice.deferred():
            report = training.epoch() if work.spec.recipe.epochs else training.score_untrained()
        if group.rank == 0:
            ray.get(mailbox.report.remote(epoch, json.dumps(to_jsonable(report))))
        epoch += 1


class _Config(TorchConfig):
    """Torch's process group, and a notice for each worker."""

    @property
    def backend_cls(self) -> type:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc] # one of Ray's, none of its names
    """A worker trains in a thread, where no handler of signals can be set: it is set beforehand."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_heed)


def _heed() -> None:
    _notice.install()
