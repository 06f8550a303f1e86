"""Ray's own autoscaler, over the node types of the AWS cluster: nodes of this machine's processes,
with GPUs that are but numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.rays import autoscaled_head, processes_of
from tests.end_to_end.recording import draw, rehearse
from tests.end_to_end.sweeping import ROOT, board, command, epochs_trained, runs_of

pytestmark = pytest.mark.slow
CLUSTER = ROOT / "clusters" / "aws.yaml"
MOST_NODES, IDLE_S = 2, 6.0
# Of 2 GB a tiny trial needs about one: two share a GPU. Six cells are more than fit at once. Of an
# option that is given twice the last holds.
ON_A_CLUSTER = (
    *("--concurrency", "None", "--gpu-memory-gb", "2", "--test-res", "32", "48", "64"),
    *("--test-crop-pct", "1.0", "--no-untouched", "--arms", "none"),
)


def test_nodes_come_for_trials_that_wait_are_shared_and_go(data: Path, tmp_path: Path) -> None:
    out, kept = data.parent / "autoscaled", Path(os.environ.get("AUTOSCALING_OUT", tmp_path))
    types = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
    with autoscaled_head(CLUSTER, max_workers=MOST_NODES, idle_s=IDLE_S) as head:
        seen = rehearse(head, command(data, out, *ON_A_CLUSTER), kept / "samples.jsonl")
    assert not processes_of(head)
    draw(seen, kept / "autoscaling.png", "A tiny sweep on an autoscaled cluster")
    assert seen.returncode == 0, seen.said

    first, last = seen.samples[0], seen.samples[-1]
    assert not first.nodes and not last.nodes
    wanted = next(i for i, s in enumerate(seen.samples) if s.waiting)
    came = next(i for i, s in enumerate(seen.samples) if s.nodes)
    assert wanted < came, "a node came before a trial waited for one"
    assert max(s.waiting for s in seen.samples) > 2, "the autoscaler sees the trials one by one"

    nodes = [node for sample in seen.samples for node in sample.nodes.values()]
    assert max(len(s.nodes) for s in seen.samples) == MOST_NODES
    assert all(node.gpus == types[node.type]["resources"]["GPU"] for node in nodes)
    assert max(node.trials / node.gpus for node in nodes) == 2, "two trials on one GPU at once"
    assert all(node.gpus_taken <= node.gpus for node in nodes)
    full = [s for s in seen.samples if s.gpus_taken == MOST_NODES and s.waiting]
    assert full, "trials waited although GPUs were free"

    assert len({(row["cell"], row["arm"]) for row in board(out)}) == 6
    assert all(set(times.values()) == {1} for times in epochs_trained(out).values())
    assert {run.info.status for run in runs_of(out)} == {"FINISHED"}
