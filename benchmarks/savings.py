"""Simulate what options that spend less, or more, do to the price and the winner of a sweep.

    python benchmarks/savings.py --seeds 10

Trunks, clock and val are those of simulate.py, on one GPU; what decides is the product's own.
"time" is that of phase 1 over that of the same sweep without the option, "regret" the points of
true top-1 that its winner is behind: medians over the seeds, of the regret also the 90th
percentile. Beside that:

    --screen     an untouched net is worth its point's accuracy less a constant, and a chance whose
                 standard deviation is given; the screen alone is judged, its cells are free
    --early-end  for samples of a point, and curves that cross little or much
    --repeat     the true accuracy of two seeds differs by a standard deviation of half a point:
                 what val says of the winner, less what is true of it, before anything is corrected
    --transfer   the best learning rate grows with the variant: its square root, from b0 to b2
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.made_up_sweeps import EPOCHS, SIZES, MadeUp, base_of, draws, make_plan
from benchmarks.simulated_phase import Outcome, simulate
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from sweeps.planning.savings.screen import make_screen
from sweeps.planning.workload import nominal_ms

CURVES, SEEDS_SD = MadeUp(0.2), 0.005
SMALL = SIZES["small"]
ONE_VARIANT = replace(SMALL, variants=("b0",), train_res=(128, 224), test_res=(128, 224))


def screened(plan: Plan, share: float, noise: float) -> Plan:
    def worth(variant: str, res: int) -> float:
        chance = noise * draws(f"{variant} {res} {plan.spec.run.seed}").standard_normal()
        return base_of(Point(variant=variant, train_res=res)) - 0.25 + chance

    def cost(point: Point) -> float:
        return nominal_ms(plan.costs[point.variant, point.train_res])

    return plan.screened(
        make_screen(share, "top1", plan.counts["val"], plan.grid.tests, worth, cost)
    )


def compared(ours: list[Outcome], whole: list[Outcome]) -> str:
    time = np.median([o.gpu_s / w.gpu_s for o, w in zip(ours, whole, strict=True)])
    regret = [100 * (w.winner - o.winner) for o, w in zip(ours, whole, strict=True)]
    return f"{time:.0%} | {np.median(regret):.2f}, {np.quantile(regret, 0.9):.2f}"


def screen_table(seeds: int) -> None:
    print("| --screen | chance, points | time | regret |\n|---|---|---|---|", flush=True)
    plans = [make_plan(SMALL, seed, 2) for seed in range(seeds)]
    whole = [simulate(plan, 1, CURVES) for plan in plans]
    for share in (0.75, 0.5, 0.25):
        for noise in (0.01, 0.05, 0.2):
            ours = [simulate(screened(plan, share, noise), 1, CURVES) for plan in plans]
            print(f"| {share} | {100 * noise:.0f} | {compared(ours, whole)} |", flush=True)


def early_end_table(seeds: int) -> None:
    print("\n| samples | crossing | time | regret |\n|---|---|---|---|", flush=True)
    for samples in (4, 9, 27):
        for crossing in (0.0, 0.2, 0.5):
            made = [
                [
                    simulate(
                        make_plan(
                            ONE_VARIANT, seed, 1, samples=samples, searcher="random",
                            early_end=early_end,
                        ),
                        1, MadeUp(crossing),
                    )
                    for seed in range(seeds)
                ]
                for early_end in (True, False)
            ]  # fmt: skip
            print(f"| {samples} | {crossing} | {compared(*made)} |", flush=True)


def winner(made: Outcome) -> tuple[float, float]:
    """What val says of the net that is handed over, and what is true of it: by means first."""
    configurations = defaultdict(list)
    for trunk, report in made.ends:
        own = (report.val[trunk.train_res].top1, MadeUp(0.2, SEEDS_SD).top1(trunk, EPOCHS))
        configurations[trunk.configuration].append(own)
    best = max(configurations.values(), key=lambda repeats: np.mean([said for said, _ in repeats]))
    return max(best)


def repeat_table(seeds: int) -> None:
    print("\n| --repeat | time | true top-1, points more | said less true |\n|---|---|---|---|")
    found = {}
    for times in (1, 2, 3, 5):
        plans = [
            make_plan(SMALL, seed, 2, repeat=times, searcher="random") for seed in range(seeds)
        ]
        made = [simulate(plan, 1, MadeUp(0.2, SEEDS_SD)) for plan in plans]
        pairs = np.array([winner(one) for one in made])
        found[times] = pairs[:, 1], np.array([one.gpu_s for one in made])
        more = 100 * (found[times][0] - found[1][0])
        time = np.median(found[times][1] / found[1][1])
        said = 100 * (pairs[:, 0] - pairs[:, 1])
        error = more.std(ddof=1) / len(more) ** 0.5
        print(
            f"| {times} | {time:.0%} | {more.mean():.2f} ± {error:.2f} | {said.mean():.2f} |",
            flush=True,
        )


def transfer_table(seeds: int) -> None:
    print("\n| samples | time | regret against without |\n|---|---|---|", flush=True)
    for samples in (1, 2, 4):
        made = [
            [
                simulate(make_plan(SMALL, seed, 2, samples=samples, transfer=on), 1, CURVES)
                for seed in range(seeds)
            ]
            for on in (True, False)
        ]
        print(f"| {samples} | {compared(*made)} |", flush=True)


TABLES = {
    "screen": screen_table,
    "early-end": early_end_table,
    "repeat": repeat_table,
    "transfer": transfer_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="sweeps for each number")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    args = parser.parse_args()
    os.fsync = lambda _: None  # no power is cut here
    for name in args.tables:
        TABLES[name](args.seeds)


if __name__ == "__main__":
    main()
