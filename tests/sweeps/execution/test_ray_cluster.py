"""Ray is started when a trial is first to be placed, and its nodes are counted."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import AuthenticationError, RpcError

from sweeps.execution import ray_cluster
from sweeps.execution.ray_cluster import ROOT, RayCluster, current_placement
from sweeps.execution.resources import ClusterResources
from sweeps.planning.options.groups import ResourceOptions
from tests.waiting import HANG_S
from trainables.errors import SweepError, UserError


def give_nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    """Let Ray see these nodes, and one that is dead."""
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    nodes = [{"Alive": True, "Resources": node} for node in resources]
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *nodes])
    monkeypatch.setattr(ray_cluster, "known_gpu", lambda options: None)
    monkeypatch.setattr(ray_cluster, "available_memory_bytes", lambda: 16 * 10**9)


def test_living_nodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    give_nodes(monkeypatch, {}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 32.0})
    assert current_placement(ResourceOptions()).cluster_resources == ClusterResources(
        cores=32, gpus=5, gpus_per_node=4, cores_per_gpu=4, gpu=None, memory_gb=16, cluster=True
    )


def test_a_cluster_without_nodes_has_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    give_nodes(monkeypatch)
    assert current_placement(ResourceOptions()).cluster_resources == ClusterResources(
        cores=0, gpus=0, gpus_per_node=0, gpu=None, memory_gb=16, cluster=False
    )


def test_of_the_nodes_with_gpus_those_of_the_wanted_kind_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    head, small = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0, "accelerator_type:T4": 1.0}
    give_nodes(monkeypatch, head, small, {"CPU": 96.0, "GPU": 8.0, "accelerator_type:H100": 1.0})
    found = current_placement(ResourceOptions(accelerator_type="T4")).cluster_resources
    assert (found.cores, found.gpus, found.gpus_per_node) == (8, 1, 1)
    found = current_placement(ResourceOptions(accelerator_type="A100")).cluster_resources
    assert (found.cores, found.gpus) == (2, 0)  # its nodes may be yet to come


def test_a_kind_of_gpu_is_chosen_on_a_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"--accelerator-type T4 chooses among the nodes"):
        ray_cluster.check_cluster(ResourceOptions(accelerator_type="T4"))


@pytest.mark.parametrize("cluster", [True, False])
def test_a_given_cluster_is_joined_and_else_a_private_ray_started(
    monkeypatch: pytest.MonkeyPatch, cluster: bool
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray_cluster, "interrupt_on_sigterm", lambda: started.append({}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray_cluster.start_ray(ResourceOptions())
    init, after = started
    assert after == {}  # SIGTERM is handled once Ray is running.
    assert ("address" in init) is not cluster
    if not cluster:
        assert init["address"] == "local"


@pytest.mark.ray
def test_trials_import_what_the_command_can(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("WORD = 'found'")
    work = """
import ray
from sweeps.execution.ray_cluster import start_ray
from sweeps.planning.options.groups import ResourceOptions
start_ray(ResourceOptions())
print(ray.get(ray.remote(lambda: __import__("only_here").WORD).remote()))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", work],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.stdout == "found\n", done.stderr


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_ray_that_does_not_start_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    def gives_up(**_: object) -> None:
        raise Exception("The current node timed out during startup.\n  The GCS is overloaded.")

    monkeypatch.setattr(ray, "init", gives_up)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SweepError) as error:
        ray_cluster.start_ray(ResourceOptions())
    where = f"at RAY_ADDRESS {address}" if address else "on this machine"
    assert str(error.value).startswith(
        f"Ray did not start {where} (The current node timed out during startup. The GCS is "
        "overloaded): "
    )
    assert str(error.value).endswith("the same command continues.")


LISTEN = """
import json, psutil
from sweeps.environment import set_environment
set_environment()
from sweeps.execution.ray_cluster import start_ray
from sweeps.planning.options.groups import ResourceOptions
start_ray(ResourceOptions())
own = psutil.Process()
sockets = [c for p in (own, *own.children(recursive=True)) for c in p.net_connections("inet")]
print(json.dumps([c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN]))
"""


@pytest.mark.ray
def test_a_private_ray_listens_on_loopback_alone() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-c", LISTEN]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr
    addresses = json.loads(done.stdout.splitlines()[-1])
    assert len(addresses) >= 3  # at least its control service, its raylet and the driver
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


def test_ray_runs_only_if_a_trial_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray_cluster, "start_ray", lambda options: calls.append("start"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("stop"))
    give_nodes(monkeypatch, {"CPU": 2.0})
    with RayCluster(ResourceOptions()):
        pass
    assert calls == []
    with RayCluster(ResourceOptions()) as cluster:
        assert cluster.placement is cluster.placement
    assert calls == ["start", "stop"]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def answer(server: socket.socket, with_bytes: bytes) -> threading.Thread:
    """Answer one request."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(with_bytes)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_without_a_cluster_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        ray_cluster.check_cluster(ResourceOptions())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        (AuthenticationError("InvalidAuthToken"), "wants a token"),
        (RpcError("Timed out"), r"does not answer as the head of a Ray cluster \(Timed out"),
    ],
)
def test_a_head_that_answers_is_greeted(
    monkeypatch: pytest.MonkeyPatch,
    listener: socket.socket,
    error: Exception | None,
    reason: str | None,
) -> None:
    def greet(address: str) -> None:
        if error:
            raise error

    monkeypatch.setattr("ray._raylet.GcsClient", greet)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    thread = answer(listener, b"\0\0\x06\x04\0")  # settings of HTTP/2
    with pytest.raises(UserError, match=reason) if reason else nullcontext():
        ray_cluster.check_cluster(ResourceOptions())
    thread.join(HANG_S)


def test_a_dashboard_is_told_from_a_head(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    answer(listener, b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(UserError, match=r"answers as a dashboard.* ray job submit"):
        ray_cluster.check_cluster(ResourceOptions())


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("auto", "auto finds no cluster on this machine: start one"),
        ("127.0.0.1:1", r"127.0.0.1:1 does not answer \(.*\): start the cluster"),
        ("head.invalid:6379", r"head.invalid:6379 does not answer \(.*\): start the cluster"),
        ("somewhere", "somewhere is no address: give host:port"),
        ("10.0.0.1:x", "10.0.0.1:x is no address: give host:port"),
    ],
)
def test_an_address_without_a_head_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: set())
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda folder: None)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS {reason}"):
        ray_cluster.check_cluster(ResourceOptions())
