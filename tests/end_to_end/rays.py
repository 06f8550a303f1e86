"""A Ray head of its own, on loopback: other Rays of the machine are neither joined nor stopped."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.end_to_end.sweeping import ROOT, environment
from tests.ports import free_ports
from tests.waiting import HANG_S, wait_until

RAY = str(Path(sys.executable).with_name("ray"))
STOP_PATIENCE_S = 30  # a driver that is stopped has this long to end; Ray's default is 3
# What the fake node provider calls its head; by this Ray knows that its own head is meant.
FAKE_HEAD, FAKE_HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
OBJECTS = 100_000_000  # bytes of a node's object store, which else takes 30 % of the memory


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head that is up."""

    dashboard: str  # http://host:port, to which jobs are submitted
    gcs: str  # host:port, which drivers join
    folder: Path  # its temporary files, the logs among them
    environment: dict[str, str]

    def job(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """``ray job VERB``, to its end."""
        return subprocess.run(
            [RAY, "job", verb, "--address", self.dashboard, *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )

    def submit(self, entry: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        """As clusters/README.md has it; without ``--no-wait`` to the end of the job."""
        words = (*options, "--working-dir", ".", "--runtime-env", "clusters/runtime_env.yaml")
        return self.job("submit", *words, "--", "python", *entry)

    def stop(self, submission: str) -> str:
        """What ``ray job stop`` does, without the seconds of its start; how the job has ended."""
        self._ask("POST", f"/api/jobs/{submission}/stop")
        status = ""

        def has_ended() -> bool:
            nonlocal status
            status = self._ask("GET", f"/api/jobs/{submission}")["status"]
            return status in ("STOPPED", "SUCCEEDED", "FAILED")

        wait_until(has_ended, every_s=0.2, what="the end of the job")
        return status

    def _ask(self, method: str, path: str) -> Any:
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(self.dashboard + path, headers=token, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


@contextmanager
def private_head(
    resources: Mapping[str, Any],
    autoscaling: Mapping[str, Any] | None = None,
) -> Iterator[Head]:
    """A head with these CPUs and GPUs, of which no process is left afterwards.

    Args:
        autoscaling: a cluster's YAML, whose nodes are processes of this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths must be short
    gcs, dashboard, client = map(str, free_ports(3))
    head = Head(
        dashboard=f"http://127.0.0.1:{dashboard}",
        gcs=f"127.0.0.1:{gcs}",
        folder=folder,
        environment=_environment(autoscaled=autoscaling is not None),
    )
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "min-worker-port": "0",
        "max-worker-port": "0",
        "dashboard-agent-listen-port": "0",
        "object-store-memory": str(OBJECTS),
        "temp-dir": str(folder),
        "num-cpus": str(resources["CPU"]),
        "num-gpus": str(resources.get("GPU", 0)),
    }
    if autoscaling is not None:
        options["autoscaling-config"] = str(_fake_cluster(autoscaling, head))
    start = [RAY, "start", "--head", *(f"--{name}={value}" for name, value in options.items())]
    try:
        subprocess.run(start, env=head.environment, check=True, capture_output=True, timeout=HANG_S)
        yield head
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _environment(*, autoscaled: bool) -> dict[str, str]:
    own = environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if not autoscaled:
        return own
    brought = yaml.safe_load((ROOT / "clusters" / "runtime_env.yaml").read_text())["env_vars"]
    return own | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        **brought,  # what a job would bring along to the nodes
    }


@contextmanager
def autoscaled_head(cluster: Path, *, max_workers: int, idle_s: float) -> Iterator[Head]:
    """A head of the type that the YAML ``cluster`` names, and Ray's own autoscaler over its worker
    types. A node is some processes of this machine, with as many GPUs as the YAML says."""
    asked = yaml.safe_load(cluster.read_text())
    types = {name: dict(kind["resources"]) for name, kind in asked["available_node_types"].items()}
    head = types.pop(asked["head_node_type"])
    most = {name: asked["available_node_types"][name]["max_workers"] for name in types}
    config = {
        "cluster_name": asked["cluster_name"],
        "max_workers": max_workers,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": asked["upscaling_speed"],
        "available_node_types": {
            FAKE_HEAD_TYPE: {"resources": head, "node_config": {}, "max_workers": 0}
        }
        | {
            name: {
                "resources": resources | {"object_store_memory": OBJECTS},
                "node_config": {},
                "min_workers": 0,
                "max_workers": min(max_workers, most[name]),
            }
            for name, resources in types.items()
        },
    }
    with private_head(head, config) as started:
        yield started


def _fake_cluster(config: Mapping[str, Any], head: Head) -> Path:
    """The autoscaler's file, with what the fake provider wants."""
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": head.gcs,
        "head_node_id": FAKE_HEAD,
        "launch_multiple": True,
        "disable_node_updaters": True,  # there is no machine to set up
    }
    fixed = {
        "provider": provider,
        "head_node_type": FAKE_HEAD_TYPE,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
    path = head.folder / "cluster.yaml"
    path.write_text(json.dumps({**config, **fixed}))
    return path


def processes_of(head: Head) -> list[int]:
    """The ids of all that live of this Ray, wherever its own are, and of what they started.

    Whoever their parent is. Its processes have its token in their environment; those that have
    written over theirs with a title have a log open in its folder.
    """
    token, folder = head.environment["RAY_AUTH_TOKEN"].encode(), f"{head.folder}/"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has gone already
                opened = (os.readlink(link) for link in (entry / "fd").iterdir())
                if token in (entry / "environ").read_bytes() or any(
                    path.startswith(folder) for path in opened
                ):
                    found.append(int(entry.name))
    return found


def _end(head: Head) -> None:
    """Kill them, and those that they started meanwhile."""
    deadline = time.monotonic() + 20
    while (left := processes_of(head)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
