"""What nets take by runtime and resolution: ONNX Runtime, PyTorch, and PyTorch compiled.

    python benchmarks/latency.py
    python benchmarks/latency.py --runtimes onnx torch --nets lite0:48 lite0:128 --limit-ms 5

Random weights, ten classes, warm. All nets of all runtimes take turns in one process, so that a
busy minute hits all alike. Prints a table in Markdown (the median and, in brackets, the 10th and
90th percentile, ms), and for each runtime which resolutions a limit leaves.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.machine import available_cores
from trainables.profiling.latency import (
    RUNTIME_NAMES,
    Runtime,
    Setting,
    time_in_turns,
)
from trainables.profiling.net_latency import conditions, open_nets

NETS = (
    *(f"lite0:{res}" for res in (48, 64, 80, 96, 128)),
    *(f"b0:{res}" for res in (128, 160, 192, 224, 288)),
)
CLASSES = 10


def timed(
    nets: Sequence[tuple[str, int]], runtimes: Sequence[Runtime], threads: int, batch: int
) -> dict[tuple[Runtime, str, int], list[float]]:
    """The seconds of each run, by runtime, variant and resolution."""
    with ExitStack() as stack:
        calls = {}
        for runtime in runtimes:
            setting = Setting(runtime=runtime, threads=threads, batch=batch, throughput_batch=batch)
            print(f"loading into {conditions(setting)}", file=sys.stderr, flush=True)
            opened = stack.enter_context(open_nets(nets, CLASSES, setting))
            calls |= {(runtime, *net): opened[net](batch) for net in nets}
        return time_in_turns(calls)


def cell(seconds: Sequence[float]) -> str:
    """Median, 10th and 90th percentile, in ms."""
    low, *_, high = statistics.quantiles(seconds, n=10, method="inclusive")
    return f"{1e3 * statistics.median(seconds):.1f} ({1e3 * low:.1f}-{1e3 * high:.1f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=NETS, help="VARIANT:RESOLUTION, px")
    parser.add_argument(
        "--runtimes", nargs="+", choices=get_args(Runtime), default=["onnx", "torch"]
    )
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--batch", type=int, default=1, help="images of one request")
    parser.add_argument("--limit-ms", type=float, default=5.0, help="which nets it leaves is said")
    args = parser.parse_args()
    nets = [(variant, int(res)) for variant, _, res in (net.partition(":") for net in args.nets)]
    times = timed(nets, args.runtimes, args.threads, args.batch)
    for runtime in args.runtimes:
        setting = Setting(
            runtime=runtime, threads=args.threads, batch=args.batch, throughput_batch=args.batch
        )
        print(f"- {conditions(setting)}")
    print(f"\n| net | {' | '.join(RUNTIME_NAMES[r] for r in args.runtimes)} |")
    print(f"|---|{'---:|' * len(args.runtimes)}")
    for variant, res in nets:
        cells = (cell(times[runtime, variant, res]) for runtime in args.runtimes)
        print(f"| {variant} {res} px | {' | '.join(cells)} |")
    print(f"\nWithin {args.limit_ms:g} ms:")
    for runtime in args.runtimes:
        left = [
            f"{variant} {res} px"
            for variant, res in nets
            if 1e3 * statistics.median(times[runtime, variant, res]) <= args.limit_ms
        ]
        print(f"- {RUNTIME_NAMES[runtime]}: {', '.join(left) or 'none'}")


if __name__ == "__main__":
    main()
