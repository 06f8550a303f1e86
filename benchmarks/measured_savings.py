"""Measure what options that spend less do to the price and the winner of sweeps of real images.

    python benchmarks/measured_savings.py --data FOLDER --seeds 3

FOLDER is a folder of class folders. For each seed, which decides splits, search and starts, the
same command is run plain and with each option, one after the other, each with a store and a cache
of its own, on CPUs alone. ``benchmarks/savings.py`` simulates more than that with made-up trunks.

"TMACs" are the multiply-adds (10^12) of phase 1's training, three forward passes a step: they do
not depend on what else the machine does. "CPU s" are of all processes of the command (see
``grid.py``), "trunks s" the seconds of trunks' epochs by the clock. The winner's test top-1 is that
of the choice, read once; beside it is the difference from the plain sweep's, on the same images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.grid import run
from sweeps.planning.workload import TRAIN_STEP_FORWARDS
from trainables.profiling.cost import cost
from trainables.storage.artifact_store import Store
from trainables.training.trunk import read_trunk_spec, recorded_reports

OPTIONS = {
    "plain": [],
    "cascade": ["--cascade"],
    "cascade-one": ["--cascade", "--cascade-samples", "1"],
    "screen": ["--screen", "0.5"],
    "early-end": ["--early-end"],
    "transfer": ["--transfer"],
}


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep took, and what came of it."""

    tmacs: float
    epochs: int
    trunks_s: float
    cpu_s: float
    wall_s: float
    winner: str
    test_top1: float
    n: int
    """Images of test."""


def swept(options: list[str], folder: Path) -> Swept:
    """Run one sweep."""
    out = folder / "out"
    placed = ["--out", str(out), "--cache-dir", str(folder / "cache"), "--concurrency", "1"]
    spent = run(["sweeps/fixres_grid.py", *options, *placed], folder / "log")
    store, choice = Store(out / "store"), json.loads((out / "choice.json").read_text())
    classes = len(json.loads((out / "spec.json").read_text())["classes"])
    tmacs = seconds = epochs = 0.0
    for found in store.trunks.iterdir():
        spec, reports = read_trunk_spec(store, found.name), recorded_reports(store, found.name)
        if not spec.is_untouched:
            gmacs = cost(spec.variant, spec.train_res, classes).gmacs * TRAIN_STEP_FORWARDS
            tmacs += sum(report.images for report in reports) * gmacs / 1e3
            seconds += sum(report.seconds for report in reports)
            epochs += len(reports)
    row = choice["chosen"]
    test = next(r for r in choice["unseen"] if r["split"] == "test" and r["arm"] == row["arm"])
    words = f"{row['variant']} {row['train_res']} -> {row['test_res']} px, {row['arm']}"
    return Swept(
        tmacs=tmacs, epochs=round(epochs), trunks_s=seconds, cpu_s=spent.cpu_s,
        wall_s=spent.wall_s, winner=words, test_top1=test["top1"], n=test["n"],
    )  # fmt: skip


def show(name: str, seed: int, own: Swept, plain: Swept) -> None:
    """Print a line of the table."""
    print(
        f"| {seed} | {name} | {own.epochs} | {own.tmacs:.2f} ({own.tmacs / plain.tmacs:.0%}) | "
        f"{own.trunks_s:.0f} ({own.trunks_s / plain.trunks_s:.0%}) | "
        f"{own.cpu_s:.0f} ({own.cpu_s / plain.cpu_s:.0%}) | {own.winner} | "
        f"{100 * own.test_top1:.1f} ({100 * (own.test_top1 - plain.test_top1):+.1f}, n={own.n}) |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder of class folders")
    parser.add_argument("--seeds", type=int, default=3, help="sweeps with each option")
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS)[1:], default=["cascade"])
    parser.add_argument("--variants", nargs="+", default=["lite0"])
    parser.add_argument("--train-res", nargs="+", default=["48", "80"])
    parser.add_argument("--test-res", nargs="+", default=["64", "96"])
    parser.add_argument("--samples", default="3")
    parser.add_argument("--epochs", default="6")
    parser.add_argument("--shares", nargs=2, default=["0.2", "0.4"], help="of val and of test")
    args = parser.parse_args()
    shared = [
        *("--data", args.data, "--variants", *args.variants, "--train-res", *args.train_res),
        *("--test-res", *args.test_res, "--test-crop-pct", "1.0", "--arms", "none", "fix"),
        *("--samples", args.samples, "--epochs", args.epochs, "--grace-epochs", "1"),
        *("--reduction", "2", "--val-share", args.shares[0], "--test-share", args.shares[1]),
    ]
    print("| seed | | epochs | TMACs | trunks s | CPU s | winner | test top-1 % |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for seed in range(args.seeds):
        plain = None
        for name in ["plain", *args.options]:
            with tempfile.TemporaryDirectory(prefix="savings-") as folder:
                own = swept([*shared, *OPTIONS[name], "--seed", str(seed)], Path(folder))
            plain = plain or own
            show(name, seed, own, plain)


if __name__ == "__main__":
    main()
