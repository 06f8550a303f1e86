"""What Ray's autoscaler does for a sweep: GPU nodes that come for trials that wait, and go.

    python benchmarks/autoscaling.py OUT

The autoscaler and the node types are those of clusters/aws.yaml. A node is some processes of this
machine, whose GPUs are but numbers: when nodes come and go is the autoscaler's doing, how long
trials take is this machine's. OUT/samples.jsonl gets a line each half second, OUT/autoscaling.png
the picture.
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

MOST_NODES, IDLE_S = 3, 10.0
# Nine trunks and nine cells. Of 2 GB a tiny trial needs about one: two share a GPU.
OPTIONS = (
    *("--train-res", "32", "48", "64", "--test-res", "48", "64", "96", "--samples", "3"),
    *("--concurrency", "None", "--gpu-memory-gb", "2"),
)


def figures(seen: Rehearsal) -> dict[str, str]:
    samples = seen.samples
    wanted = next(s.at for s in samples if s.waiting)
    first = next(s.at for s in samples if s.nodes)
    most = max(len(s.nodes) for s in samples)
    all_there = next(s.at for s in samples if len(s.nodes) == most)
    busy = [s for s in samples if s.trials or s.gpus_taken or s.waiting]
    none = next((s.at for s in samples if s.at > busy[-1].at and not s.nodes), float("inf"))
    nodes = [node for sample in samples for node in sample.nodes.values()]
    there = sum(sum(n.gpus for n in s.nodes.values()) for s in samples)
    taken = sum(s.gpus_taken for s in samples)
    return {
        "a trial waits": f"{wanted - seen.began:.1f} s after the driver was started",
        "first GPU node": f"{first - wanted:.1f} s after that",
        f"all {most} GPU nodes": f"{all_there - wanted:.1f} s after that",
        "most trials on one GPU": f"{max(n.trials / n.gpus for n in nodes):.0f}",
        "most trials at a time": str(max(s.trials for s in samples)),
        "GPUs taken, of those there": f"{taken / there:.0%}",
        "no node left": f"{none - busy[-1].at:.1f} s after the last trial, idle: {IDLE_S:.0f} s",
        "the driver in all": f"{seen.ended - seen.began:.0f} s",
    }


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "samples.jsonl"
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        data = draw_shapes(Path(scratch) / "data")
        cluster = ROOT / "clusters" / "aws.yaml"
        with autoscaled_head(cluster, max_workers=MOST_NODES, idle_s=IDLE_S) as head:
            seen = rehearse(head, command(data, Path(scratch) / "out", *OPTIONS), path)
    if seen.returncode:
        sys.exit(seen.said)
    draw(seen, out / "autoscaling.png", "18 trials on an autoscaled cluster, two on a GPU")
    for name, value in figures(seen).items():
        print(f"{name:28}{value}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the record and the plot")
    main(parser.parse_args().out)
