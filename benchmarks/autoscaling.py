"""Watch Ray's autoscaler during a sweep: GPU nodes come for trials that wait, and go when idle.

    python benchmarks/autoscaling.py OUT

The autoscaler and the node types are those of clusters/aws.yaml. A node is a few processes of this
machine, and its GPUs exist only as numbers: the times at which nodes come and go are real, those of
trials depend on this machine. OUT/samples.jsonl gets a line each half second, OUT/autoscaling.png
the plot.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.end_to_end.rays import autoscaled_head
from tests.end_to_end.recording import Rehearsal, draw, rehearse
from tests.end_to_end.sweeping import ROOT, command, draw_shapes

MAX_NODES, IDLE_S = 3, 10.0
# Nine trunks and nine cells. A tiny trial needs about 1 GB, so that two share a GPU of 2 GB.
OPTIONS = (
    *("--train-res", "32", "48", "64", "--test-res", "48", "64", "96", "--samples", "3"),
    *("--concurrency", "None", "--gpu-memory-gb", "2"),
)


def figures(rehearsal: Rehearsal) -> dict[str, str]:
    """Compute the key figures of a rehearsal, by name."""
    samples = rehearsal.samples
    first_wait = next(s.at for s in samples if s.waiting)
    first = next(s.at for s in samples if s.nodes)
    most = max(len(s.nodes) for s in samples)
    all_there = next(s.at for s in samples if len(s.nodes) == most)
    busy = [s for s in samples if s.trials or s.gpus_taken or s.waiting]
    none = next((s.at for s in samples if s.at > busy[-1].at and not s.nodes), float("inf"))
    nodes = [node for sample in samples for node in sample.nodes.values()]
    gpus_there = sum(sum(n.gpus for n in s.nodes.values()) for s in samples)
    gpus_taken = sum(s.gpus_taken for s in samples)
    return {
        "a trial waits": f"{first_wait - rehearsal.began:.1f} s after the driver was started",
        "first GPU node": f"{first - first_wait:.1f} s after that",
        f"all {most} GPU nodes": f"{all_there - first_wait:.1f} s after that",
        "most trials on one GPU": f"{max(n.trials / n.gpus for n in nodes):.0f}",
        "most trials at a time": str(max(s.trials for s in samples)),
        "GPUs taken, of those there": f"{gpus_taken / gpus_there:.0%}",
        "no node left": f"{none - busy[-1].at:.1f} s after the last trial, idle: {IDLE_S:.0f} s",
        "the driver in all": f"{rehearsal.ended - rehearsal.began:.0f} s",
    }


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "samples.jsonl"
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        data = draw_shapes(Path(scratch) / "data")
        cluster = ROOT / "clusters" / "aws.yaml"
        with autoscaled_head(cluster, max_workers=MAX_NODES, idle_s=IDLE_S) as head:
            rehearsal = rehearse(head, command(data, Path(scratch) / "out", *OPTIONS), path)
    if rehearsal.returncode:
        sys.exit(rehearsal.said)
    draw(
        rehearsal,
        out / "autoscaling.png",
        "Nine trunks, nine cells on an autoscaled cluster, two on a GPU",
    )
    for name, value in figures(rehearsal).items():
        print(f"{name:28}{value}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the record and the plot")
    main(parser.parse_args().out)
