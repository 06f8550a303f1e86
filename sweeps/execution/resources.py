"""Decide the resources of trials: CPU cores, GPU shares, workers and concurrency.

Trials share a GPU by memory. With M GB on the GPU and N GB needed by a trial, n = floor(M / N)
trials share it and each asks for 1/n: the shares add up to whole GPUs, and the needs to no more
memory than there is. A trial that needs more than one GPU is spread over several if it can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, floor
from typing import Any

import torch

from sweeps.environment import on_cluster
from sweeps.planning.options.groups import ResourceOptions
from trainables.errors import UserError
from trainables.machine import available_cores, available_memory_bytes

# With more trials than this on one GPU, they wait for each other and for the host.
MAX_TRIALS_PER_GPU = 8
# Trunks with several workers that train at a time on a cluster: a process on the head waits for
# each of them.
MAX_WORKER_GROUPS = 8
# A cluster is assumed to have so many cores for each GPU while no node with GPUs is seen, and a
# trial on its CPUs takes no more.
ASSUMED_CORES_PER_GPU = 4
# A trial on CPUs computes in float32, whose maps take twice what bf16 takes on a GPU; its process,
# with PyTorch, takes about twice what a GPU's context takes.
CPU_MEMORY_FACTOR = 2.0
# The share of a trial's work that more threads of its own make faster (Amdahl's law).
PARALLEL_SHARE = 0.5
# Ray counts resources in ten-thousandths.
RESOURCE_GRANULARITY = 10_000
# Ray gives each node a unit of a resource of this prefix and its kind of GPU, and asks for so much
# of it where a task names the kind.
ACCELERATOR_PREFIX, ACCELERATOR_SHARE = "accelerator_type:", 0.001
# Ray gives the head node one unit of this resource.
HEAD_NODE_RESOURCE = "node:__internal_head__"
# Trials leave some of that unit: helpers of Ray Train need thousandths of it to be placed at all.
HEAD_SHARE_FOR_TRIALS = 0.9

# Variant and resolution (px), which decide how much memory a trial needs.
NetAtRes = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """GPU memory that one trial needs."""

    gb: Callable[[int], float]
    """Memory (1e9 bytes) that each worker needs, given the number of workers."""
    max_workers: int
    """Workers that the trial can be split over, at most."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Memory of the GPUs; of the smallest where they differ."""

    gb: float
    """Memory, 1e9 bytes."""
    source: str
    """How the memory is known, in words."""


@dataclass(frozen=True, kw_only=True)
class ClusterResources:
    """Resources of the machine or cluster that trials are placed on."""

    cores: int
    """CPU cores of the largest node; 0: no node with cores is seen."""
    gpus: int
    """GPUs of all nodes together."""
    gpus_per_node: int
    """GPUs of the node with the most."""
    cores_per_gpu: int | None = None
    """CPU cores to each GPU, on the node with the fewest; None: no node with GPUs is seen."""
    gpu: Gpu | None
    """None: there is no GPU, or its memory is not known."""
    memory_gb: float
    """Memory of this machine that is free, 1e9 bytes."""
    cluster: bool
    """Whether it is a cluster, whose nodes may be yet to come."""


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """Resources that one trial asks for."""

    cpus: int
    """CPU cores of each worker."""
    gpus: float
    """GPUs of each worker."""
    workers: int = 1
    groups: int = 1
    """Trials with several workers that run at a time."""
    accelerator: str | None = None
    """The kind of its GPUs, as Ray names it; None: any."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of the trial's own process, as Ray names them.

        With several workers this process only waits for them. The workers are a placement group of
        their own, which Ray reserves whole or not at all, so that no two trials each hold half of
        what they need. Shares of the head node bound how many trials wait at a time.
        """
        if self.workers > 1:
            return {HEAD_NODE_RESOURCE: _rounded_down(HEAD_SHARE_FOR_TRIALS / self.groups)}
        return self._worker

    @property
    def _worker(self) -> dict[str, float]:
        """Resources of each worker."""
        worker = {"CPU": self.cpus, "GPU": self.gpus}
        if self.accelerator and self.gpus:
            worker[ACCELERATOR_PREFIX + self.accelerator] = ACCELERATOR_SHARE
        return worker

    @property
    def config(self) -> dict[str, Any]:
        """Entries of a Tune configuration that carry these resources to the trainable."""
        config: dict[str, Any] = {"resources": self.bundle, "threads": self.cpus}
        if self.workers > 1:
            config |= {"workers": self.workers, "worker_resources": self._worker}
        return config


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Available resources, and the user's options for their use."""

    options: ResourceOptions
    cluster_resources: ClusterResources

    @property
    def gpus_to_spread_over(self) -> int:
        """GPUs that trunks may be spread over: on a cluster those that are said to come."""
        if not self.uses_gpus:
            return 0
        seen, said = self.cluster_resources.gpus, self.options.cluster_gpus
        return said if said is not None and self.cluster_resources.cluster else seen

    @property
    def uses_gpus(self) -> bool:
        """Whether trials ask for GPUs: there are some now, or a cluster will bring some."""
        if self.options.gpus_per_trial is not None:
            return self.options.gpus_per_trial > 0
        gpus_will_come = self.cluster_resources.cluster and self.options.gpu_memory_gb is not None
        return self.cluster_resources.gpus > 0 or gpus_will_come

    def gpus_and_workers(self, need: MemoryNeed) -> tuple[float, int]:
        """Decide the GPUs of each worker of a trial, and the number of its workers."""
        options = self.options
        workers = options.given_workers or 1
        if workers > 1 and need.max_workers > 1:
            return float(self.uses_gpus), workers
        if options.gpus_per_trial is not None:
            return options.gpus_per_trial, 1
        if not self.uses_gpus:
            return 0.0, 1
        concurrency, gpus = options.concurrency, self.cluster_resources.gpus
        if concurrency and 0 < gpus < concurrency:
            return _rounded_down(1 / ceil(concurrency / gpus)), 1
        return self._gpus_and_workers_by_memory(need)

    def _gpus_and_workers_by_memory(self, need: MemoryNeed) -> tuple[float, int]:
        available = self.cluster_resources
        if available.gpu is None:
            return 1.0, 1
        trials_per_gpu = min(MAX_TRIALS_PER_GPU, int(available.gpu.gb / need.gb(1)))
        if trials_per_gpu < 1:
            return 1.0, self._workers(need, available.gpu.gb)
        if self.options.concurrency and not available.cluster:
            # There are enough GPUs for --concurrency trials, so none of them needs to share.
            return 1.0, 1
        return _rounded_down(1 / trials_per_gpu), 1

    def _workers(self, need: MemoryNeed, gpu_gb: float) -> int:
        """Find the fewest workers whose GPUs hold the trial.

        If no number does, it is the most there may be; the trainable then splits its steps too.
        """
        max_workers = self.options.given_workers or self.cluster_resources.gpus_per_node
        if not self.cluster_resources.cluster:
            max_workers //= self.options.concurrency or 1
        max_workers = max(1, min(max_workers, need.max_workers))
        return next((n for n in range(2, max_workers + 1) if need.gb(n) <= gpu_gb), max_workers)


@dataclass(frozen=True, kw_only=True)
class PhaseResources:
    """Resources that trials of one kind may use, by variant and resolution."""

    placement: Placement
    needs: Mapping[NetAtRes, MemoryNeed]
    trials: int = 1
    """Trials that there will be, at most."""
    spread: Mapping[NetAtRes, int] = field(default_factory=dict)
    """Workers of those that are spread over more GPUs than memory asks for."""
    alone: bool = False
    """Whether one trial runs at a time, with all resources."""
    unshared: bool = False
    """Whether each trial has its GPU to itself, as where there are few of them; so has one that
    runs alone."""

    @cached_property
    def trial_resources(self) -> Mapping[NetAtRes, TrialResources]:
        """Resources of a trial of each variant and resolution.

        Raises:
            UserError: a trial could never be placed on this machine.
        """
        by_net = {
            key: TrialResources(
                cpus=self._cpus_of(gpus),
                gpus=gpus,
                workers=workers,
                groups=self._groups(workers),
                accelerator=self.placement.options.accelerator_type,
            )
            for key, (gpus, workers) in self._shares.items()
        }
        for trial in by_net.values():
            self._check(trial)
        return by_net

    def _check(self, trial: TrialResources) -> None:
        available = self._placed.cluster_resources
        if trial.workers == 1 or available.cluster:
            return
        cpus, gpus = trial.workers * trial.cpus, int(trial.workers * trial.gpus)
        if cpus > available.cores or gpus > available.gpus:
            raise UserError(
                f"{trial.workers} workers a trial take {cpus} CPU cores and {gpus} GPUs, and this "
                f"machine has {available.cores} and {available.gpus}: give a smaller "
                "--workers-per-trial or --cpus-per-trial."
            )

    @cached_property
    def concurrency(self) -> int | None:
        """Trials that run at a time; None: as many as the cluster takes."""
        options, available = self._placed.options, self._placed.cluster_resources
        if options.concurrency is not None or available.cluster:
            return options.concurrency
        if not self._placed.uses_gpus:
            return self._trials_on_cpus
        most = max(
            self._groups(workers) if workers > 1 else _trials_that_fit(gpus, available.gpus)
            for gpus, workers in self._shares.values()
        )
        return max(1, min(most, available.cores // (options.cpus_per_trial or 1)))

    @property
    def _trials_on_cpus(self) -> int:
        """Decide how many trials run at a time without GPUs: as many as are done soonest.

        A trial gains less from a second core than a second trial does; but there are only so many
        trials, and all of them must fit into the memory.
        """
        if any(workers > 1 for _, workers in self._shares.values()):
            return 1
        available, options = self._placed.cluster_resources, self._placed.options
        gb = CPU_MEMORY_FACTOR * max(need.gb(1) for need in self.needs.values())
        cores = available.cores // (options.cpus_per_trial or 1)
        most = max(1, min(cores, self.trials, int(available.memory_gb / gb)))

        def seconds(trials: int) -> float:
            threads = options.cpus_per_trial or max(1, available.cores // trials)
            return ceil(self.trials / trials) * (1 - PARALLEL_SHARE + PARALLEL_SHARE / threads)

        return min(range(1, most + 1), key=seconds)

    @cached_property
    def cpus(self) -> int:
        """CPU cores of each worker, where they do not follow from its GPUs."""
        options, available = self._placed.options, self._placed.cluster_resources
        if options.cpus_per_trial is not None:
            return options.cpus_per_trial
        if available.cluster:
            return min(ASSUMED_CORES_PER_GPU, available.cores or ASSUMED_CORES_PER_GPU)
        concurrency = self.concurrency or 1
        workers = max(workers for _, workers in self._shares.values())
        processes = max(concurrency, workers * min(concurrency, self._groups(workers)))
        return max(1, available.cores // processes)

    def _cpus_of(self, gpus: float) -> int:
        """Decide the CPU cores of a worker: its GPU's, shared as the GPU is.

        So cores are left for all that share a node with it, and only for those.
        """
        options, available = self._placed.options, self._placed.cluster_resources
        asked = options.concurrency is not None and not available.cluster
        if options.cpus_per_trial is not None or asked or not gpus:
            return self.cpus
        cores = available.cores_per_gpu
        if cores is None:
            cores = ASSUMED_CORES_PER_GPU
        return max(1, cores // _trials_that_fit(gpus, 1) if gpus < 1 else floor(cores * gpus))

    @cached_property
    def _placed(self) -> Placement:
        placement = self.placement
        if not self.alone:
            return placement
        return replace(placement, options=replace(placement.options, concurrency=1))

    @cached_property
    def _shares(self) -> dict[NetAtRes, tuple[float, int]]:
        return {key: self._share(key, need) for key, need in self.needs.items()}

    def _share(self, net: NetAtRes, need: MemoryNeed) -> tuple[float, int]:
        gpus, workers = self._placed.gpus_and_workers(need)
        if self.spread.get(net, 1) > workers:
            return 1.0, self.spread[net]
        is_given = self._placed.options.gpus_per_trial is not None
        if (self.alone or self.unshared) and 0 < gpus < 1 and not is_given:
            return 1.0, workers
        return gpus, workers

    def _groups(self, workers: int) -> int:
        """Decide how many trials with this number of workers run at a time."""
        placement = self._placed
        if placement.cluster_resources.cluster:
            return MAX_WORKER_GROUPS
        if placement.uses_gpus:
            return max(1, placement.cluster_resources.gpus // workers)
        return placement.options.concurrency or 1


def _trials_that_fit(gpus_per_trial: float, gpus: int) -> int:
    """Count the trials that fit on ``gpus`` GPUs; 0: they use none."""
    if not gpus_per_trial:
        return 0
    return gpus * floor(1 / gpus_per_trial) if gpus_per_trial <= 1 else floor(gpus / gpus_per_trial)


def _rounded_down(share: float) -> float:
    """Round a share down to Ray's granularity: shares that add up to one still fit into one."""
    return floor(share * RESOURCE_GRANULARITY) / RESOURCE_GRANULARITY


def known_gpu(options: ResourceOptions) -> Gpu | None:
    """Return the memory of a GPU: the given one, or that of the GPUs that this process sees."""
    if options.gpu_memory_gb is not None:
        return Gpu(gb=options.gpu_memory_gb, source="--gpu-memory-gb")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if not devices:
        return None
    smallest = min(devices, key=lambda device: device.total_memory)
    return Gpu(gb=smallest.total_memory / 1e9, source=f"{smallest.name}, seen here")


def expected_placement(options: ResourceOptions) -> Placement:
    """Predict the placement without starting Ray.

    It has this machine's resources, or stands for nodes of a cluster that are yet to come.
    """
    gpus = torch.cuda.device_count()
    cluster_resources = ClusterResources(
        cores=available_cores(),
        gpus=gpus,
        gpus_per_node=gpus,
        cores_per_gpu=available_cores() // gpus if gpus else None,
        gpu=known_gpu(options),
        memory_gb=available_memory_bytes() / 1e9,
        cluster=on_cluster() or (options.gpu_memory_gb is not None and not gpus),
    )
    return Placement(options=options, cluster_resources=cluster_resources)
