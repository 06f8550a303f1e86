"""What an autoscaled cluster does while a sweep runs on it: sampled, kept as JSON lines, drawn.

    python -m tests.end_to_end.recording GCS DASHBOARD FILE

samples until it is told to end: a process of its own, as Ray reads its token once a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.end_to_end.rays import Head
from tests.end_to_end.sweeping import ROOT
from tests.waiting import HANG_S

EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Node:
    """A GPU node that has joined."""

    type: str
    gpus: float
    gpus_taken: float  # by trials that run there or have their place there
    trials: int  # processes of trials that are up


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A moment of the cluster."""

    at: float  # seconds since the epoch
    nodes: dict[str, Node]  # by instance
    waiting: int  # trials for which there is no place

    @property
    def trials(self) -> int:
        return sum(node.trials for node in self.nodes.values())

    @property
    def gpus_taken(self) -> float:
        return sum(node.gpus_taken for node in self.nodes.values())


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A sweep on an autoscaled cluster, from before it began until the last node had gone."""

    samples: list[Sample]
    began: float  # seconds since the epoch
    ended: float  # of the driver, likewise
    said: str
    returncode: int


def rehearse(head: Head, argv: Sequence[str], path: Path, patience_s: float = 60) -> Rehearsal:
    """Run the sweep ``argv`` from the head, and wait for the nodes to go.

    As a driver and not as a job: a job's working directory is unpacked afresh on each node that
    comes, which here are one machine, under the feet of those that work in it.

    Args:
        path: where the samples are kept, a JSON line each.
        patience_s: how long nodes may stay after the end of the driver.
    """
    with recorded(head, path):
        began = time.time()
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env=head.environment | {"RAY_ADDRESS": head.gcs},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG_S,
        )
        ended = time.time()
        while read(path)[-1].nodes and time.time() < ended + patience_s:
            time.sleep(EVERY_S)
        time.sleep(2 * EVERY_S)
    return Rehearsal(
        samples=read(path),
        began=began,
        ended=ended,
        said=done.stdout,
        returncode=done.returncode,
    )


def take(gcs: str, dashboard: str) -> Sample:
    """The cluster as its autoscaler and its head tell it."""
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.util.state import list_actors

    status = get_cluster_status(gcs)
    actors = list_actors(address=dashboard, filters=[("state", "=", "ALIVE")])
    trials = Counter(actor.node_id for actor in actors)
    nodes = {}
    for node in (*status.active_nodes, *status.idle_nodes):
        gpus = node.total_resources().get("GPU", 0)
        if gpus:
            nodes[node.instance_id] = Node(
                type=node.ray_node_type_name,
                gpus=gpus,
                gpus_taken=node.used_resources().get("GPU", 0),
                trials=trials[node.node_id],
            )
    demand = status.resource_demands.placement_group_demand
    return Sample(
        at=time.time(),
        nodes=nodes,
        waiting=sum(bundle.count for group in demand for bundle in group.bundles_by_count),
    )


def read(path: Path) -> list[Sample]:
    samples = []
    for line in path.read_text().splitlines():
        value = json.loads(line)
        value["nodes"] = {name: Node(**node) for name, node in value["nodes"].items()}
        samples.append(Sample(**value))
    return samples


@contextmanager
def recorded(head: Head, path: Path) -> Iterator[None]:
    """Samples of ``head`` are appended to ``path`` within the block."""
    argv = [sys.executable, "-m", "tests.end_to_end.recording", head.gcs, head.dashboard, str(path)]
    process = subprocess.Popen(argv, cwd=ROOT, env=head.environment)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0, "the recorder failed: see its trace above"


def draw(rehearsal: Rehearsal, path: Path, title: str) -> None:
    """Nodes, GPUs and trials over the time, as PNG."""
    from matplotlib.figure import Figure

    samples = rehearsal.samples
    since = [sample.at - rehearsal.began for sample in samples]
    figure = Figure(figsize=(8, 5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    above, below = figure.subplots(2, sharex=True)
    nodes = [len(s.nodes) for s in samples]
    above.fill_between(since, nodes, step="post", color="C0", alpha=0.3, lw=0, label="GPU nodes")
    taken = [s.gpus_taken for s in samples]
    above.step(since, taken, where="post", color="C2", label="GPUs taken by trials")
    waiting = [s.waiting for s in samples]
    below.step(since, waiting, where="post", color="C3", label="trials that wait for a place")
    running = [s.trials for s in samples]
    below.step(since, running, where="post", color="C1", label="trials that run")
    below.set_xlabel("seconds since the driver was started")
    for axes in (above, below):
        axes.axvline(
            rehearsal.ended - rehearsal.began, color="0.5", ls=":", label="the driver ends"
        )
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], 1))
        axes.grid(axis="y", color="0.9")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def _record(gcs: str, dashboard: str, path: Path) -> None:
    ended = False

    def end(_signal: int, _frame: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    with path.open("a") as file:
        while not ended:
            file.write(json.dumps(asdict(take(gcs, dashboard))) + "\n")
            file.flush()
            time.sleep(EVERY_S)


if __name__ == "__main__":
    _record(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # Ray's client has threads that would wait for the head
