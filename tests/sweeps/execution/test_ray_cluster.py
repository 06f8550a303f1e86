"""Ray is started when a trial is first to be placed, and its nodes are counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from sweeps.execution import ray_cluster
from sweeps.execution.ray_cluster import ROOT, RayCluster, current_placement
from sweeps.execution.resources import ClusterResources
from sweeps.planning.spec import ResourceOptions
from tests.waiting import HANG_S


def give_nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    """Let Ray see these nodes, and one that is dead."""
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    nodes = [{"Alive": True, "Resources": node} for node in resources]
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *nodes])
    monkeypatch.setattr(ray_cluster, "known_gpu", lambda options: None)


def test_living_nodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    give_nodes(monkeypatch, {}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 32.0})
    assert current_placement(ResourceOptions()).cluster_resources == ClusterResources(
        cores=32, gpus=5, gpus_per_node=4, gpu=None, cluster=True
    )


def test_a_cluster_without_nodes_has_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    give_nodes(monkeypatch)
    assert current_placement(ResourceOptions()).cluster_resources == ClusterResources(
        cores=0, gpus=0, gpus_per_node=0, gpu=None, cluster=False
    )


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


LISTEN = """
import json, psutil
from sweeps.environment import set_environment
set_environment()
from sweeps.execution.ray_cluster import start_ray
from sweeps.planning.spec import ResourceOptions
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
