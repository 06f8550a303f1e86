"""Start Ray on this machine or join the given cluster, and see what resources it has."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sweeps.environment import interrupt_on_sigterm, on_cluster
from sweeps.execution.resources import (
    ACCELERATOR_PREFIX,
    ClusterResources,
    Placement,
    known_gpu,
)
from sweeps.planning.options.groups import ResourceOptions
from trainables.errors import SweepError, UserError
from trainables.machine import available_cores, available_memory_bytes
from trainables.storage.retry import MAX_LINE_LENGTH, first_line

# Seconds within which a cluster's head accepts a connection, or is told not to answer.
ANSWER_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


def current_placement(options: ResourceOptions) -> Placement:
    """See what the cluster or this machine has now. Ray must be running.

    With ``--accelerator-type`` nodes with other GPUs count for nothing.
    """
    import ray

    all_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [n["Resources"] for n in all_nodes if n["Alive"]]
    if kind := options.accelerator_type:
        nodes = [n for n in nodes if not n.get("GPU") or ACCELERATOR_PREFIX + kind in n]
    cluster_resources = ClusterResources(
        cores=max((int(n.get("CPU", 0)) for n in nodes), default=0),
        gpus=int(sum(n.get("GPU", 0) for n in nodes)),
        gpus_per_node=max((int(n.get("GPU", 0)) for n in nodes), default=0),
        cores_per_gpu=min(
            (int(n.get("CPU", 0) // n["GPU"]) for n in nodes if n.get("GPU")), default=None
        ),
        gpu=known_gpu(options),
        memory_gb=available_memory_bytes() / 1e9,
        cluster=on_cluster(),
    )
    return Placement(options=options, cluster_resources=cluster_resources)


def check_cluster(options: ResourceOptions) -> None:
    """Check that the given cluster answers, if one is given, before anything is made.

    Raises:
        UserError: RAY_ADDRESS is not the address of a cluster's head, or an option needs a cluster.
    """
    if not on_cluster():
        if options.accelerator_type:
            raise UserError(
                f"--accelerator-type {options.accelerator_type} chooses among the nodes of a "
                "cluster, and RAY_ADDRESS names none: leave it out on one machine."
            )
        return
    given = os.environ["RAY_ADDRESS"]
    host, port = _head_of(given)
    try:
        with socket.create_connection((host, port), ANSWER_S) as head:
            is_web_server = _answers_http(head)
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS {given} does not answer ({error.strerror or error}): start the cluster, "
            "or unset it to run on this machine."
        ) from None
    if is_web_server:
        raise UserError(
            f"RAY_ADDRESS {given} answers as a dashboard, to which jobs are submitted: submit the "
            "sweep with ray job submit, or unset it to run on this machine."
        )
    _greet(f"{host}:{port}", given)


def _greet(head: str, given: str) -> None:
    """Ask a head who it is. Without this, joining one that refuses takes minutes."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        GcsClient(address=head)
    except AuthenticationError:
        raise UserError(
            f"RAY_ADDRESS {given} wants a token that this process does not have: set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or unset the address to run on this machine."
        ) from None
    except RayError as error:
        raise UserError(
            f"RAY_ADDRESS {given} does not answer as the head of a Ray cluster "
            f"({first_line(error)}): give another, or unset it to run on this machine."
        ) from None


def _head_of(address: str) -> tuple[str, int]:
    """Find the host and the port of the head that RAY_ADDRESS means."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        host, _, port = str(canonicalize_bootstrap_address(address)).rpartition(":")
        return host.strip("[]"), int(port)
    except ConnectionError:
        raise UserError(
            f"RAY_ADDRESS {address} finds no cluster on this machine: start one with ray start "
            "--head, or unset it to run without."
        ) from None
    except ValueError:
        raise UserError(
            f"RAY_ADDRESS {address} is no address: give host:port of a cluster's head, or unset it "
            "to run on this machine."
        ) from None


def _answers_http(head: socket.socket) -> bool:
    """Say whether HTTP/1 is spoken there; a head's control service speaks HTTP/2 alone."""
    try:
        head.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return head.recv(5) == b"HTTP/"
    except OSError:
        return False


def start_ray(options: ResourceOptions) -> None:
    """Join the given cluster, or start a private Ray on loopback that ends with this process.

    Raises:
        SweepError: Ray gave up, as it does after half a minute on a machine with too much to do.
    """
    import ray

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # This one only repeats which trials failed, which the terminal shows anyway.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    try:
        if on_cluster():
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        else:
            _start_private_ray(options)
    except Exception as error:  # Ray has no kind of its own for a start that failed.
        where = f"at RAY_ADDRESS {os.environ['RAY_ADDRESS']}" if on_cluster() else "on this machine"
        raise SweepError(
            f"Ray did not start {where} ({_words(error)}): where the machine has too much to do, "
            "give it rest or more memory; the same command continues."
        ) from error
    interrupt_on_sigterm()


def _words(error: Exception) -> str:
    """Quote what Ray says, which may take several lines, in one."""
    return " ".join(str(error).split())[:MAX_LINE_LENGTH].rstrip(". ") or type(error).__name__


def _start_private_ray(options: ResourceOptions) -> None:
    import ray

    gpus = torch.cuda.device_count()
    with _without_dashboard_process():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=150_000_000,  # Bytes: trials share images by files, not objects.
            num_cpus=available_cores(),
            num_gpus=gpus,
            runtime_env={"env_vars": {"PYTHONPATH": _import_path(), "OMP_WAIT_POLICY": "passive"}},
        )


def _import_path() -> str:
    """Where trials import from: this copy of the code, then where this process was told to."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def _without_dashboard_process() -> Iterator[None]:
    """Keep Ray from starting a process for usage statistics where there is to be no dashboard.

    Even with the statistics switched off, that process asks the metadata servers of three clouds
    whether this machine is theirs.
    """
    from ray._private import services

    start = services.start_api_server
    services.start_api_server = lambda *_, **__: (None, None)
    try:
        yield
    finally:
        services.start_api_server = start


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
