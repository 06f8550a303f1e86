"""What a trial may use, and where: the one place that decides resources, and starts Ray."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sweeps.environment import heed_sigterm, on_cluster
from sweeps.spec import RunOptions

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """For each trial, and of all."""

    cpus: int  # a trial
    gpus: float  # a trial
    concurrency: int | None  # trials at a time; None: as many as the cluster takes


def start_ray() -> None:
    """Join the given cluster, or start a private Ray on loopback that ends with this process."""
    import ray

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if on_cluster():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        _start_private_ray()
    heed_sigterm()


def _start_private_ray() -> None:
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=150_000_000,  # trials share images through files, not objects
        num_gpus=torch.cuda.device_count(),
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}},
    )


def place(options: RunOptions) -> Placement:
    """Cores and GPUs of a trial. Ray must be up."""
    import ray

    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    gpus = sum(n.get("GPU", 0) for n in nodes)
    concurrency = options.concurrency
    if concurrency is None and not on_cluster():
        concurrency = max(1, int(gpus))
    cpus = options.cpus_per_trial
    if cpus is None:
        here = max((int(n.get("CPU", 0)) for n in nodes), default=0)
        # A cluster's workers may be yet to come: four cores are what its smallest GPU node has.
        cpus = min(4, here or 4) if on_cluster() else max(1, here // (concurrency or 1))
    share = options.gpus_per_trial
    if share is None:
        share = 1.0 if gpus else 0.0
        if gpus and concurrency and concurrency > gpus:
            share = round(gpus / concurrency, 3)
    return Placement(cpus=cpus, gpus=share, concurrency=concurrency)


class Cluster:
    """Ray, started when a trial is first to be placed, stopped at the end."""

    def __init__(self, options: RunOptions):
        self._options = options
        self._placement: Placement | None = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._placement is not None:
            ray.shutdown()

    @property
    def placement(self) -> Placement:
        if self._placement is None:
            start_ray()
            self._placement = place(self._options)
        return self._placement


def own_threads() -> int:
    """CPU threads for what the driver itself does with images."""
    return os.cpu_count() or 1
