"""End halving early, where the ranking of trunks no longer changes from rung to rung.

PASHA (Bohdal et al., arXiv:2207.06940; ICLR 2023, Algorithm 1): at first trunks are promoted to the
second rung at most. Whenever one comes to the highest rung that is open, the trunks there are
ranked by it and by the rung before. Where the two rankings differ, the next rung is opened. Two
values that differ by no more than epsilon count as equal ("soft ranking"). The paper estimates
epsilon from pairs of trunks that swap places from epoch to epoch; val is scored at rungs alone, so
that here it is the standard error of the difference of two shares of val's images. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean

from sweeps.planning.plan import Plan
from sweeps.scheduling.halving import Halving


def keeps_order(before: Mapping[str, float], now: Mapping[str, float], epsilon: float) -> bool:
    """Say whether two rankings agree: each trunk is among the equals of its place in the former.

    Args:
        before, now: values at two rungs by the same keys; the larger, the better. Of equal ones the
            first is ahead.
        epsilon: values that differ by no more are equal.
    """
    ranked_before = sorted(before, key=lambda key: -before[key])
    ranked_now = sorted(now, key=lambda key: -now[key])
    pairs = zip(ranked_before, ranked_now, strict=True)
    return all(abs(before[key] - before[place]) <= epsilon for place, key in pairs)


def noise(values: Mapping[str, float], n: int) -> float:
    """Estimate the standard error of the difference of two such shares of n images."""
    share = fmean(values.values())
    return math.sqrt(2 * share * (1 - share) / n)


class EarlyEndHalving(Halving):
    """The rungs of one point, opened as long as the ranking changes; see :class:`Halving`.

    One trunk goes to the end nevertheless: the best of those that came farthest.

    Args:
        images: of val.
    """

    def __init__(self, *, rungs: int, reduction: int, trunks: int, images: int):
        super().__init__(rungs=rungs, reduction=reduction, trunks=trunks)
        self._images = images
        self._finished = set[str]()
        self.top = min(1, rungs)  # the highest rung that is open; after the last: the end

    def arrive(self, key: str, value: float) -> None:
        """Let a trunk wait at the rung that it ran to, which may open the next one."""
        rung = self.running[key]
        super().arrive(key, value)
        if rung == self.top < len(self._rungs):
            now = {k: -place[0] for k, place in self._rungs[rung].place_of.items()}
            places = self._rungs[rung - 1].place_of
            before = {k: -places[k][0] for k in now}
            if not keeps_order(before, now, noise(before, self._images)):
                self.top += 1

    def leave(self, key: str, *, finished: bool = False) -> None:
        """Forget a trunk that ended, except for what it has shown at rungs."""
        super().leave(key, finished=finished)
        if finished:
            self._finished.add(key)

    def lost(self) -> list[str]:
        """List the trunks that wait and can no longer be promoted: in the end, all of them."""
        may_open = self.to_begin or self.running or not self.has_finished
        return super().lost() if may_open or self.promotable() else list(self.waiting)

    @property
    def spared(self) -> list[str]:
        """The trunks that halving would have trained on, had all rungs been open."""
        return [
            key
            for rung in range(self.top, len(self._rungs))
            for key in self._rungs[rung].best(len(self._rungs[rung]) // self._reduction)
            if self.rung_of(key) == rung and key not in self._finished
        ]

    def _promotable_at(self, rung: int) -> list[str]:
        return super()._promotable_at(rung) if rung < self.top else []


def halving_of(plan: Plan, trunks: int, epochs: int) -> Halving:
    """Make the rungs of one point of a plan, of so many trunks that are trained so many epochs."""
    rungs, reduction = len(plan.rungs_to(epochs)) - 1, plan.spec.halving.reduction
    if not plan.spec.halving.early_end:
        return Halving(rungs=rungs, reduction=reduction, trunks=trunks)
    images = plan.counts["val"]
    return EarlyEndHalving(rungs=rungs, reduction=reduction, trunks=trunks, images=images)


def early_end_in_words(halvings: Iterable[Halving]) -> str:
    """Say at how many points the ranking no longer changed, and what was spared; or nothing."""
    early = [halving for halving in halvings if isinstance(halving, EarlyEndHalving)]
    if not early:
        return ""
    spared = [len(halving.spared) for halving in early]
    return (
        f"--early-end: the ranking no longer changed at {sum(map(bool, spared))} of {len(early)} "
        f"variants and train resolutions, and {sum(spared)} trunk(s) that halving would have "
        "trained on were ended"
    )
