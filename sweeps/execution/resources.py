"""What a trial may use, and where: the one place that decides resources, and starts Ray.

On a GPU of so many GB whose trial needs so many, floor(one / other) trials share it: each asks for
one over that, so that shares add up to whole GPUs and needs to no more than there is. What needs
more than one GPU is spread over several, if it can be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, floor
from typing import Any

import torch

from sweeps.environment import on_cluster
from sweeps.planning.spec import ResourceOptions
from trainables.errors import UserError

MAX_TRIALS_PER_GPU = 8  # trials on one GPU: beyond that they wait for each other, and for the host
MAX_WORKER_GROUPS = 8  # trunks with several workers at a time, on a cluster: each waits on the head
ASSUMED_CORES_PER_GPU_NODE = 4  # of a cluster's smallest GPU node, where none is seen yet
RESOURCE_GRANULARITY = 10_000  # Ray counts resources in ten-thousandths
HEAD_NODE_RESOURCE = "node:__internal_head__"  # Ray gives the head one of it
HEAD_SHARE_FOR_TRIALS = (
    0.9  # of that one: helpers of Ray Train take thousandths of it, and wait if there are none
)

NetAtRes = tuple[str, int]  # variant and resolution, px: how much a trial needs


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """What one trial needs."""

    gb: Callable[[int], float]  # 1e9 bytes of a GPU, of each of so many workers
    max_workers: int  # that can share it


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What is known of the GPUs: where they differ, of the smallest."""

    gb: float  # 1e9 bytes
    source: str  # in words


@dataclass(frozen=True, kw_only=True)
class ClusterResources:
    """What there is to place trials on."""

    cores: int  # of the largest node; 0: no node with cores is seen
    gpus: int  # in all
    gpus_per_node: int  # of the node with the most
    gpu: Gpu | None  # None: no GPU, or none whose memory is known
    cluster: bool  # nodes may be yet to come


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What one trial asks for; with several workers, what each of them does."""

    cpus: int
    gpus: float
    workers: int = 1
    groups: int = 1  # trials with several workers at a time

    @property
    def bundle(self) -> dict[str, float]:
        """Of the trial's own process.

        With several workers this is one that waits for them. They are a placement group of their
        own, which Ray reserves whole or not at all, so that no two trials hold half of what each
        wants. How many trials wait at a time is bounded by their shares of the head.
        """
        if self.workers > 1:
            return {HEAD_NODE_RESOURCE: _rounded_down(HEAD_SHARE_FOR_TRIALS / self.groups)}
        return {"CPU": self.cpus, "GPU": self.gpus}

    @property
    def config(self) -> dict[str, Any]:
        """What the trial's configuration says of it."""
        told: dict[str, Any] = {"resources": self.bundle}
        if self.workers > 1:
            each = {"CPU": self.cpus, "GPU": self.gpus}
            told |= {"workers": self.workers, "worker_resources": each}
        return told


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What is there, and what was asked for."""

    options: ResourceOptions
    cluster_resources: ClusterResources

    @property
    def uses_gpus(self) -> bool:
        """Whether trials ask for any: there are some, or some will come."""
        if self.options.gpus_per_trial is not None:
            return self.options.gpus_per_trial > 0
        coming = self.cluster_resources.cluster and self.options.gpu_memory_gb is not None
        return self.cluster_resources.gpus > 0 or coming

    def gpus_and_workers(self, need: MemoryNeed) -> tuple[float, int]:
        """GPUs of a trial, or of each of its workers, and how many these are."""
        options = self.options
        workers = options.workers_per_trial or 1
        if workers > 1 and need.max_workers > 1:
            return float(self.uses_gpus), workers
        if options.gpus_per_trial is not None:
            return options.gpus_per_trial, 1
        if not self.uses_gpus:
            return 0.0, 1
        asked, gpus = options.concurrency, self.cluster_resources.gpus
        if asked and 0 < gpus < asked:
            return _rounded_down(1 / ceil(asked / gpus)), 1
        return self._by_memory(need)

    def _by_memory(self, need: MemoryNeed) -> tuple[float, int]:
        machines = self.cluster_resources
        if machines.gpu is None:
            return 1.0, 1
        sharing = min(MAX_TRIALS_PER_GPU, int(machines.gpu.gb / need.gb(1)))
        if sharing < 1:
            return 1.0, self._workers(need, machines.gpu.gb)
        if self.options.concurrency and not machines.cluster:
            return 1.0, 1  # a GPU for each of the trials that were asked for: none need share
        return _rounded_down(1 / sharing), 1

    def _workers(self, need: MemoryNeed, gb: float) -> int:
        """As few as hold it; if none do, as many as there may be: steps are then split besides."""
        most = self.options.workers_per_trial or self.cluster_resources.gpus_per_node
        if not self.cluster_resources.cluster:
            most //= self.options.concurrency or 1
        most = max(1, min(most, need.max_workers))
        return next((n for n in range(2, most + 1) if need.gb(n) <= gb), most)


@dataclass(frozen=True, kw_only=True)
class PhaseResources:
    """What the trials of one phase may use, by their size."""

    placement: Placement
    needs: Mapping[NetAtRes, MemoryNeed]
    alone: bool = False  # one trial at a time, with all that there is

    @cached_property
    def trial_resources(self) -> Mapping[NetAtRes, TrialResources]:
        """
        Raises:
            UserError: one could never be placed.
        """
        asks = {
            key: TrialResources(
                cpus=self.cpus, gpus=gpus, workers=workers, groups=self._groups(workers)
            )
            for key, (gpus, workers) in self._shares.items()
        }
        for ask in asks.values():
            self._check(ask)
        return asks

    def _check(self, ask: TrialResources) -> None:
        machines = self._placed.cluster_resources
        if ask.workers == 1 or machines.cluster:
            return
        cpus, gpus = ask.workers * ask.cpus, int(ask.workers * ask.gpus)
        if cpus > machines.cores or gpus > machines.gpus:
            raise UserError(
                f"{ask.workers} workers a trial take {cpus} CPU cores and {gpus} GPUs, and this "
                f"machine has {machines.cores} and {machines.gpus}: give a smaller "
                "--workers-per-trial or --cpus-per-trial."
            )

    @cached_property
    def concurrency(self) -> int | None:
        """Trials at a time; None: as many as the cluster takes."""
        options, machines = self._placed.options, self._placed.cluster_resources
        if options.concurrency is not None or machines.cluster:
            return options.concurrency
        most = max(
            self._groups(workers) if workers > 1 else _fitting(gpus, machines.gpus)
            for gpus, workers in self._shares.values()
        )
        return max(1, min(most, machines.cores // (options.cpus_per_trial or 1)))

    @cached_property
    def cpus(self) -> int:
        """CPU cores of each trial, or of each of its workers."""
        options, machines = self._placed.options, self._placed.cluster_resources
        if options.cpus_per_trial is not None:
            return options.cpus_per_trial
        if not machines.cluster:
            at_a_time = self.concurrency or 1
            workers = max(workers for _, workers in self._shares.values())
            processes = max(at_a_time, workers * min(at_a_time, self._groups(workers)))
            return max(1, machines.cores // processes)
        sharing = max(_fitting(gpus, 1) for gpus, _ in self._shares.values())
        cores = (
            machines.cores // machines.gpus_per_node
            if machines.gpus
            else ASSUMED_CORES_PER_GPU_NODE
        )
        alone = min(
            ASSUMED_CORES_PER_GPU_NODE, machines.cores or ASSUMED_CORES_PER_GPU_NODE
        )  # of one that shares no GPU
        return max(1, min(alone, cores // max(1, sharing)))

    @cached_property
    def _placed(self) -> Placement:
        placement = self.placement
        if not self.alone:
            return placement
        return replace(placement, options=replace(placement.options, concurrency=1))

    @cached_property
    def _shares(self) -> dict[NetAtRes, tuple[float, int]]:
        return {key: self._placed.gpus_and_workers(need) for key, need in self.needs.items()}

    def _groups(self, workers: int) -> int:
        """Trials with so many workers at a time."""
        placement = self._placed
        if placement.cluster_resources.cluster:
            return MAX_WORKER_GROUPS
        if placement.uses_gpus:
            return max(1, placement.cluster_resources.gpus // workers)
        return placement.options.concurrency or 1


def _fitting(asked: float, gpus: int) -> int:
    """How many trials of ``asked`` GPUs each fit ``gpus`` of them; 0: they use none."""
    if not asked:
        return 0
    return gpus * floor(1 / asked) if asked <= 1 else floor(gpus / asked)


def _rounded_down(share: float) -> float:
    """To what Ray can count, so that shares that add up to one still do."""
    return floor(share * RESOURCE_GRANULARITY) / RESOURCE_GRANULARITY


def known_gpu(options: ResourceOptions) -> Gpu | None:
    """The memory of a GPU: as it is given, or of those that this process sees."""
    if options.gpu_memory_gb is not None:
        return Gpu(gb=options.gpu_memory_gb, source="--gpu-memory-gb")
    seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if not seen:
        return None
    least = min(seen, key=lambda device: device.total_memory)
    return Gpu(gb=least.total_memory / 1e9, source=f"{least.name}, seen here")


def expected_placement(options: ResourceOptions) -> Placement:
    """As far as it can be told without Ray: this machine's, or nodes that are yet to come."""
    gpus = torch.cuda.device_count()
    machines = ClusterResources(
        cores=driver_threads(),
        gpus=gpus,
        gpus_per_node=gpus,
        gpu=known_gpu(options),
        cluster=on_cluster() or (options.gpu_memory_gb is not None and not gpus),
    )
    return Placement(options=options, cluster_resources=machines)


def driver_threads() -> int:
    """CPU threads for what the driver itself does with images."""
    return os.cpu_count() or 1
