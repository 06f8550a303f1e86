"""Ray's own autoscaler, over the node types of the AWS cluster: nodes of this machine's processes,
with GPUs that are but numbers.

The sweep that they run ends by a refit, and by leaving no more on the disk than the best.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.end_to_end.rays import autoscaled_head, processes_of
from tests.end_to_end.recording import Rehearsal, draw, rehearse
from tests.end_to_end.sweeping import ROOT, board, command, epochs_trained, runs_of

pytestmark = pytest.mark.slow
CLUSTER = ROOT / "clusters" / "aws.yaml"
MOST_NODES, IDLE_S = 2, 6.0
# Of 2 GB a tiny trial needs about one: two share a GPU. Six cells are more than fit at once. Of an
# option that is given twice the last holds.
ON_A_CLUSTER = (
    *("--concurrency", "None", "--gpu-memory-gb", "2", "--test-res", "32", "48", "64"),
    *("--test-crop-pct", "1.0", "--no-untouched", "--arms", "none", "fix"),
    *("--refit", "--keep", "best"),
)


@dataclass(frozen=True, kw_only=True)
class Autoscaled:
    """The sweep, done."""

    out: Path
    seen: Rehearsal


@pytest.fixture(scope="module")
def autoscaled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Autoscaled:
    folder = tmp_path_factory.mktemp("autoscaled")
    out, kept = folder / "out", Path(os.environ.get("AUTOSCALING_OUT", folder))
    with autoscaled_head(CLUSTER, max_workers=MOST_NODES, idle_s=IDLE_S) as head:
        seen = rehearse(head, command(data, out, *ON_A_CLUSTER), kept / "samples.jsonl")
    assert not processes_of(head)
    draw(seen, kept / "autoscaling.png", "A tiny sweep on an autoscaled cluster")
    assert seen.returncode == 0, seen.said
    return Autoscaled(out=out, seen=seen)


def test_nodes_come_for_trials_that_wait_are_shared_and_go(autoscaled: Autoscaled) -> None:
    out, seen = autoscaled.out, autoscaled.seen
    types = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
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

    assert len({row["cell"] for row in board(out) if row["split"] == "val"}) == 6
    assert all(set(times.values()) == {1} for times in epochs_trained(out).values())
    assert {run.info.status for run in runs_of(out)} == {"FINISHED"}


def test_the_choice_is_trained_again_and_what_lost_is_deleted(
    autoscaled: Autoscaled, undisturbed: Path
) -> None:
    """The number of test resolutions changes what is scored, not what is trained at first. The
    refit is a trunk of its own; what lost leaves the disk and MLflow."""
    out, said = autoscaled.out, autoscaled.seen.said
    assert "refit    trained again on train + val" in said
    assert "MB of the store freed" in said
    (again,) = epochs_trained(out).keys() - epochs_trained(undisturbed).keys()
    spec = json.loads((out / "store" / "trunks" / again / "spec.json").read_text())
    assert spec["images"].endswith("-trainval")
    choice = json.loads((out / "choice.json").read_text())
    card = (out / "model" / "README.md").read_text()
    assert choice["refit"] and "Trained again on train + val" in card
    left = {path.parent.name for path in (out / "store").rglob("trunk.safetensors")}
    assert left == {again, choice["chosen"]["trunk"]}
    assert not list((out / "store").rglob("train.arrow"))
    kept = {path.parent.parent.name for path in (out / "mlartifacts").rglob("trunk.safetensors")}
    assert len(kept) == 1
    served = load_file(out / "model" / "model.safetensors")
    trunk = load_file(out / "store" / "trunks" / again / "trunk.safetensors")
    assert served["conv_stem.weight"].equal(trunk["conv_stem.weight"])
