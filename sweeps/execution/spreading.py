"""Decide which trunks are spread over several GPUs, as they would outlast all the others. Pure.

What decides is the plan, by GMACs and activations, and the number of GPUs: no clock, so that the
same command decides the same. A point's trunks all have as many workers, at every rung; a trunk
that waits goes on with as many as its point has then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from sweeps.planning.units import duration
from sweeps.planning.workload import dearest_first, expected_trunks, nominal_epoch_s

# What is left of the speed of two groups where they are made one: shares of a batch are small, and
# gradients and statistics are exchanged. Assumed, as it depends on the GPUs' link.
DOUBLING_EFFICIENCY = 0.9
# Of the time that all trunks take, no trunk is to take more than this share where it can be spread.
# One that goes on to the end is known only when others have come to its rung, and waits until as
# many GPUs are free as it has workers: benchmarks/simulate.py has the least time with a half.
LONGEST_SHARE = 0.5
# Workers take tens of seconds to start, at every rung: a trunk that ends this soon is spread no
# further.
SHORT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over how many workers the trunks of a point are spread, and why."""

    workers: int
    alone_s: float
    """Seconds of a trunk that is trained to the end by one worker, on a nominal GPU."""
    spread_s: float
    """Likewise, by the workers."""


def group_speed(workers: int, efficiency: float = DOUBLING_EFFICIENCY) -> float:
    """Estimate how many times as fast as one several workers train, a power of two of them."""
    return workers * efficiency ** (workers.bit_length() - 1)


def spread_trunks(
    plan: Plan,
    gpus: int,
    most_workers: Mapping[Point, int],
    efficiency: float = DOUBLING_EFFICIENCY,
) -> dict[Point, Spread]:
    """Spread each trunk that would take too much of the time that the GPUs take for all trunks.

    Its workers are doubled until it would not (:data:`LONGEST_SHARE`), or takes no more than
    :data:`SHORT_S` seconds of a nominal GPU, or there may be no more.
    What spreading wastes is counted: it makes all trunks take longer.

    Args:
        gpus: that there are.
        most_workers: over which the trunks of a point may be spread.
        efficiency: as :data:`DOUBLING_EFFICIENCY`.

    Returns:
        What is spread, by point; nothing for the others.
    """
    alone_s, work_s = _seconds_of_trunks(plan)
    workers = dict.fromkeys(plan.points, 1)

    def takes_s(point: Point) -> float:
        return alone_s[point] / group_speed(workers[point], efficiency)

    def device_s(point: Point) -> float:
        return work_s[point] * workers[point] / group_speed(workers[point], efficiency)

    # The slowest first, of equals the dearest; and what all take together: neither is looked for
    # anew at each doubling, of which there are as many as points.
    slowest_first = [(-takes_s(p), place, p) for place, p in enumerate(dearest_first(plan))]
    heapify(slowest_first)
    all_s = math.fsum(map(device_s, plan.points))
    while slowest_first:
        negative_s, place, slowest = heappop(slowest_first)
        if -negative_s <= max(LONGEST_SHARE * all_s / max(1, gpus), SHORT_S):
            break
        if 2 * workers[slowest] <= min(gpus, most_workers[slowest]):
            all_s -= device_s(slowest)
            workers[slowest] *= 2
            all_s += device_s(slowest)
            heappush(slowest_first, (-takes_s(slowest), place, slowest))
    return {
        point: Spread(workers=workers[point], alone_s=alone_s[point], spread_s=takes_s(point))
        for point in plan.points
        if workers[point] > 1
    }


def _seconds_of_trunks(plan: Plan) -> tuple[dict[Point, float], dict[Point, float]]:
    """Estimate by point, on a nominal GPU, the seconds of a trunk to its end, and of all trunks."""
    alone_s, work_s = dict[Point, float](), dict[Point, float]()
    for point in plan.points:
        epochs = range(1, plan.epochs_at(point) + 1)
        seconds = [nominal_epoch_s(plan, point, epoch) for epoch in epochs]
        trunks = [expected_trunks(plan, point, epoch) for epoch in epochs]
        alone_s[point] = sum(seconds)
        work_s[point] = sum(n * s for n, s in zip(trunks, seconds, strict=True))
    return alone_s, work_s


def spread_in_words(spread: Mapping[Point, Spread], gpus: int) -> str:
    """Say which trunks are spread over how many workers, and why; or why none is."""
    rule = (
        f"no trunk is to take more than {LONGEST_SHARE:g} of the time that {gpus} GPUs take for all"
    )
    if not spread:
        return f"nothing, as {rule}, and none does, or it is over soon"
    points = ", ".join(
        f"{point.variant} at {point.train_res} px over {own.workers} workers "
        f"({duration(own.spread_s)} to the end, alone {duration(own.alone_s)})"
        for point, own in spread.items()
    )
    return f"{points}: {rule}, by a nominal GPU's speed"
