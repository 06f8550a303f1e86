"""Measure how the driver's own work grows with a sweep: seconds for each event of each part.

    python benchmarks/scale.py
    python benchmarks/scale.py --parts board report --sizes 100 1000 --limit 60

Each part is the product's own; nets, Ray and the clock of trials are made up. A part at a size is a
process of its own. A size is a number of trunks or of cells; each cell has four arms.

    exponent   of the total, between two sizes: 1 is linear, and 1.1 at most is wanted
    peak       memory of the process above what it had before the part began
    written    bytes that the part wrote, or sent to an object store, and their exponent

    proposals       a proposal of TPE, all trunks being of one variant, at eight train resolutions
    trunks          all else that the scheduler of trunks does, for each trunk, in the same sweep
    trunks wide     the same where each point has eight trunks, and points grow
    budgeted        "trunks wide" within a budget
    resume          reading the journal and the trunks of "trunks wide" back, for each trunk
    cells           the scheduler of cells, one point after the other being settled
    board           the live leaderboard, a cell every second
    board resumed   the same where the store holds all cells but one
    terminal        lines about cells, with the time left
    choose          the choice, from predictions of 100 images of val
    choose large    the same from 5,000 images of val; only if it is named
    choose macro-F1  likewise, where macro-F1 decides; only if it is named
    report          report and figures
    mlflow          all that the tracker writes of cells into MLflow (sqlite), and how many requests
                    it makes for each, and when it is closed; only if it is named
    journal         lines in a folder, synced to the disk
    journal remote  lines in an object store (SeaweedFS, loopback); only if it is named
    store remote    what is sent to an object store: results of cells and their trunks, the
                    journal's lines, and the live leaderboard, a cell every half minute; only if it
                    is named
    tune            Ray Tune's own share: trials that do nothing, run as a sweep's are; only if it
                    is named

Seconds are the process's CPU time. A part is not taken to a larger size where
it has taken longer than --limit seconds of wall time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import driver_parts, service_parts
from benchmarks.driver_parts import Measured

PARTS = driver_parts.PARTS | service_parts.PARTS
SIZES = (100, 1_000, 5_000, 10_000)
ONLY_IF_NAMED = frozenset(
    {"choose large", "choose macro-F1", "mlflow", "journal remote", "store remote", "tune"}
)


def measure_here(part: str, size: int) -> Measured:
    """Measure a part in this process, which has done nothing else."""
    os.fsync = lambda _: None  # no power is cut here, and the disk is not what is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        found = PARTS[part](size, Path(root))
    found.peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found


def measured(part: str, size: int, limit_s: float) -> Measured | None:
    """Measure a part in a process of its own; None: it took too long."""
    command = [sys.executable, __file__, "--one", part, str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{part} at {size}:\n{done.stderr[-3000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def line(part: str, size: int, found: Measured | None, before: Measured | None) -> str:
    if found is None:
        return f"| {part} | {size:,} | too long | | | | | |"
    exponent = written = more_written = ""
    if before is not None and found.events != before.events:
        size_grew = math.log(found.events / before.events)
        grown = math.log(max(found.seconds, 1e-9) / max(before.seconds, 1e-9))
        exponent = f"{grown / size_grew:.2f}"
        if found.written and before.written:
            more_written = f"{math.log(found.written / before.written) / size_grew:.2f}"
    if found.written:
        written = f"{found.written / 1e6:,.2f} MB"
    each = f"{1e3 * found.seconds / found.events:,.3f} ms"
    peak = f"{found.peak_mb:,.0f} MB"
    fields = (part, f"{size:,}", each, exponent, peak, written, more_written, found.note)
    return f"| {' | '.join(fields)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    default = [part for part in PARTS if part not in ONLY_IF_NAMED]
    parser.add_argument("--parts", nargs="*", default=default, choices=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="trunks or cells")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a part at a size")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asdict(measure_here(args.one[0], int(args.one[1])))))
        return
    table(args.parts, args.sizes, args.limit)


def table(parts: Sequence[str], sizes: Sequence[int], limit_s: float) -> None:
    print("| part | size | an event | exponent | peak | written | exponent | |")
    print("|---|---:|---:|---:|---:|---:|---:|---|", flush=True)
    for part in parts:
        before = None
        for size in sizes:
            found = measured(part, size, limit_s)
            print(line(part, size, found, before), flush=True)
            if found is None:
                break
            before = found


if __name__ == "__main__":
    main()
