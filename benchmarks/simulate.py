"""Simulate a sweep on several GPUs: what it spends, what that costs, and who waits.

    python benchmarks/simulate.py --seeds 10
    python benchmarks/simulate.py --grid reference --gpus 1 4 16 64 --curves recorded --seeds 21
    python benchmarks/simulate.py --grid reference --gpus 16 --spread 0.9 --cells
    python benchmarks/simulate.py --grid large --gpus 256 1024 --seeds 1 --spot-loss 0.1

What decides is the product's own (TrunkScheduler, Halving, Optuna's TPE, the journal). There is
phase 1 alone, or, with --cells, cells too (SettledCells, CellScheduler), which begin once their
point is settled, on GPUs that trunks leave idle, and are counted in all that follows. The clock is
simulated: an epoch takes what nominal_ms says, on a GPU for each trial. Learning curves are made up
(made_up_sweeps.py), rise to an accuracy that depends on the hyperparameters, the better the sooner,
and cross by chance (--crossing); or they are resampled from those of real trunks on the sets of
recorded_curves.json, which take turns by the seed (recorded_curves.py). Each number is the median
over seeds.

    epochs    trained, of those of all trunks to their end
    GPU time  likewise, and in hours of a GPU, what was lost included; then that of the cells
    regret    points of true top-1 that the winner is behind that of the same sweep without cuts;
              median and 90th percentile
    elapsed   to the end of the last trial, in times of a trunk of the dearest point
    idle      share of the GPUs' time until then
    TPE       share of the proposals that TPE made, not the middle of the ranges or chance
    lost      how often a trial lost a GPU

With --spread E trunks that would outlast others have several workers, as --workers-per-trial
auto decides with that efficiency: E of the speed is left at each doubling. Their GPUs count as
busy, so that what spreading wastes is in GPU time.

With --spot-loss each GPU that is busy goes away so often an hour, at random, and the next comes
after five minutes. Its trial goes on on other GPUs, before all others, from what it saved last,
every five minutes and after each epoch, after a minute of restarting.

With --screen, --cascade and --cascade-samples sweeps spend less, as with the options of that name
(only by curves that are made up); regret is towards sweeps of all points without cuts, in which no
trunk starts from another. What untouched nets are worth is made up too, with an error of two
points, and that a trunk which starts from another comes as far in its fewer epochs as it would
from the weights in all.

At the end: whether variants and resolutions in another order change a decision.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import recorded_curves
from benchmarks.made_up_sweeps import (
    EPOCHS,
    SIZES,
    Curves,
    MadeUp,
    Size,
    cells_seconds,
    dearest_trunk_seconds,
    make_plan,
)
from benchmarks.simulated_phase import Outcome, simulate
from sweeps.planning.plan import Plan

CurvesOf = Callable[[int], Curves]  # by seed
SAVINGS: dict[str, Any] = {}  # options by which sweeps spend less, but for those without cuts


def line(
    size: Size,
    grace: int | None,
    gpus: int,
    curves: CurvesOf,
    uncut: list[Outcome],
    **how: Any,
) -> str:
    ours = [
        simulate(plan_with(size, seed, grace, curves), gpus, curves(seed), **how)
        for seed in range(len(uncut))
    ]
    regret = [100 * (u.winner - o.winner) for o, u in zip(ours, uncut, strict=True)]
    epochs = np.median([o.epochs for o in ours])
    gpu_s = np.median([o.gpu_s for o in ours])
    idle = np.median([o.idle for o in ours])
    losses = np.median([o.losses for o in ours])
    by_tpe = np.median([o.by_tpe for o in ours])
    plan = plan_with(size, 0, grace, curves)
    elapsed = np.median([o.elapsed_s for o in ours]) / dearest_trunk_seconds(plan)
    return (
        f"| {grace or 'default'} | {gpus} | {epochs:,.0f} of {uncut[0].epochs:,} "
        f"| {gpu_s / uncut[0].gpu_s:.0%} | {gpu_s / 3600:,.1f} | {cells_seconds(plan) / 3600:.1f} "
        f"| {np.median(regret):.2f}, {np.quantile(regret, 0.9):.2f} | {elapsed:.2f} | {idle:.0%} "
        f"| {by_tpe:.0%} | {losses:.0f} |"
    )


def plan_with(size: Size, seed: int, grace: int | None, curves: CurvesOf, **how: Any) -> Plan:
    """Make a plan of that size; without a first rung, with that which a sweep chooses."""
    grace = curves(seed).default_grace if grace is None else grace
    return make_plan(size, seed, grace, **SAVINGS, **how)


def budget_line(size: Size, seeds: int, share: float, gpus: int, curves: CurvesOf) -> str:
    """Compare sweeps that have a share of the time that they would take."""
    whole = [simulate(make_plan(size, seed, 1), gpus, curves(seed)) for seed in range(seeds)]
    cells = []
    for ranked in (True, False):
        ours = [
            simulate(
                make_plan(size, seed, 1), gpus, curves(seed), share * w.elapsed_s, ranked=ranked
            )
            for seed, w in enumerate(whole)
        ]
        regret = [100 * (w.winner - o.winner) for o, w in zip(ours, whole, strict=True)]
        known = [r for r in regret if not math.isnan(r)]
        over = max(o.elapsed_s / (share * w.elapsed_s) for o, w in zip(ours, whole, strict=True))
        quantiles = (
            f"{np.median(known):.2f}, {np.quantile(known, 0.9):.2f}" if known else "no trunk"
        )
        cells += [quantiles, f"{len(regret) - len(known)}", f"{over:.2f}"]
    return f"| {share:.0%} | {gpus} | {' | '.join(cells)} |"


def is_same(size: Size, seed: int, grace: int | None, gpus: int, curves: CurvesOf) -> bool:
    """Whether options that are typed the other way round make the same journal."""
    one, other = (
        simulate(plan_with(size, seed, grace, curves, turned=turned), gpus, curves(seed))
        for turned in (False, True)
    )
    return one.journal == other.journal


def curves_of(kind: str, crossing: float) -> CurvesOf:
    """Choose how trunks learn, by the seed."""
    if kind == "made-up":
        return lambda _: MadeUp(crossing)
    names = [name for name in recorded_curves.names() if kind in ("recorded", name.split()[0])]
    return lambda seed: recorded_curves.of_set(names[seed % len(names)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--grid", choices=SIZES, default="small", help="how large the sweep is")
    parser.add_argument("--seeds", type=int, default=10, help="sweeps for each number")
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 4, 16], help="how many of them")
    parser.add_argument("--grace", type=int, nargs="*", default=[1, 2], help="first rungs, epochs")
    parser.add_argument("--default-grace", action="store_true", help="that of a sweep's own, too")
    parser.add_argument("--budget", type=float, nargs="*", default=[], help="shares of the time")
    sets = [name.split()[0] for name in recorded_curves.names()]
    kinds = ("made-up", "recorded", *sets)
    parser.add_argument("--curves", choices=kinds, default="made-up", help="of all or of one set")
    parser.add_argument("--crossing", type=float, default=0.2, help="of curves that are made up")
    parser.add_argument("--spread", type=float, help="of the speed, left where workers double")
    parser.add_argument("--screen", type=float, default=1.0, help="share of the points that stay")
    parser.add_argument("--cascade", action="store_true", help="from small to large resolutions")
    parser.add_argument("--cascade-samples", type=int, help="trunks that start from others")
    parser.add_argument("--cascade-epochs", type=int, help="of those; left out: half of all")
    parser.add_argument("--cells", action="store_true", help="made too, beside trunks")
    parser.add_argument("--spot-loss", type=float, default=0.0, help="of each GPU, an hour")
    args = parser.parse_args()
    os.fsync = lambda _: None  # no power is cut here
    size, curves = SIZES[args.grid], curves_of(args.curves, args.crossing)
    cascade = ("cascade", "cascade_samples", "cascade_epochs")
    SAVINGS.update(screen=args.screen, **{name: getattr(args, name) for name in cascade})
    how = {"losses_per_hour": args.spot_loss, "spread": args.spread, "cells": args.cells}
    print(
        "| grace | GPUs | epochs | GPU time | hours | of cells | regret | elapsed | idle | TPE "
        "| lost |\n|---|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    uncut = [simulate(make_plan(size, seed, EPOCHS), 1, curves(seed)) for seed in range(args.seeds)]
    graces = [*args.grace, None] if args.default_grace else args.grace
    for grace in graces:
        for gpus in args.gpus:
            print(line(size, grace, gpus, curves, uncut, **how), flush=True)
    if args.budget:
        print("\n| budget | GPUs | regret | none | used | in order: regret | none | used |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
    for share in args.budget:
        for gpus in args.gpus:
            print(budget_line(size, args.seeds, share, gpus, curves), flush=True)
    same = [
        is_same(size, seed, grace, args.gpus[-1], curves)
        for grace in graces
        for seed in range(min(3, args.seeds))
    ]
    print(f"typed the other way round: {sum(same)} of {len(same)} journals the same")


if __name__ == "__main__":
    main()
