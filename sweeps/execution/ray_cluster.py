"""Start Ray on this machine or join the given cluster, and see what resources it has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from sweeps.environment import interrupt_on_sigterm, on_cluster
from sweeps.execution.resources import ClusterResources, Placement, known_gpu
from sweeps.planning.spec import ResourceOptions

ROOT = Path(__file__).resolve().parents[2]


def current_placement(options: ResourceOptions) -> Placement:
    """See what the cluster or this machine has now. Ray must be running."""
    import ray

    all_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [n["Resources"] for n in all_nodes if n["Alive"]]
    cluster_resources = ClusterResources(
        cores=max((int(n.get("CPU", 0)) for n in nodes), default=0),
        gpus=int(sum(n.get("GPU", 0) for n in nodes)),
        gpus_per_node=max((int(n.get("GPU", 0)) for n in nodes), default=0),
        gpu=known_gpu(options),
        cluster=on_cluster(),
    )
    return Placement(options=options, cluster_resources=cluster_resources)


def start_ray(options: ResourceOptions) -> None:
    """Join the given cluster, or start a private Ray on loopback that ends with this process."""
    import ray

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # This one only repeats which trials failed, which the terminal shows anyway.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    if on_cluster():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        _start_private_ray(options)
    interrupt_on_sigterm()


def _start_private_ray(options: ResourceOptions) -> None:
    import ray

    gpus = torch.cuda.device_count()
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=150_000_000,  # Bytes: trials share images through files, not objects.
        num_gpus=gpus,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}},
    )


class RayCluster:
    """Context of a run: starts Ray when a trial is first to be placed, and stops it at the end."""

    def __init__(self, options: ResourceOptions):
        self._options = options
        self._placement: Placement | None = None

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._placement is not None:
            ray.shutdown()

    @property
    def placement(self) -> Placement:
        """What trials may be placed on; the first use starts Ray."""
        if self._placement is None:
            start_ray(self._options)
            self._placement = current_placement(self._options)
        return self._placement
