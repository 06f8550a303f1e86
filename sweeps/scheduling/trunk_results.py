"""What the trunks of phase 1 have shown: which are the best, and which of these are repeated.

What is repeated, trained again with other seeds and all else alike, are the trunks of a point that
are fixed, once it is known which, and only those that were trained to their end. The first training
counts as one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import smaller_variants
from sweeps.scheduling.proposals import Trial
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus


class TrunkResults:
    """The trunks that were proposed, their reports, and how they ended."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._trunks: dict[str, TrunkSpec] = {}  # by key, in the order of the proposals
        self._of_point: dict[Point, list[TrunkSpec]] = defaultdict(list)  # the same
        self._values: dict[str, dict[int, float]] = defaultdict(dict)  # by key and epoch
        self._reports: dict[str, dict[int, EpochReport]] = {}  # by key and epoch
        self._ended: dict[str, TrunkStatus] = {}  # by key
        # For the search, by variant and key: each has its values as they are now.
        self._tried: dict[str, dict[str, Trial]] = defaultdict(dict)
        # With --transfer by variant those that it learns from; they come first.
        self._smaller: dict[str, tuple[str, ...]] = {}
        if plan.spec.search.transfer:
            self._smaller = {p.variant: smaller_variants(plan, p.variant) for p in plan.points}

    @property
    def plan(self) -> Plan:
        """The plan of the sweep."""
        return self._plan

    def epochs_reported(self, trunk: TrunkSpec) -> int:
        """Count the epochs of a trunk, from its first on, whose reports this process has."""
        reports = self._reports.get(trunk.key, {})
        return next(epoch for epoch in range(len(reports) + 1) if epoch + 1 not in reports)

    def survivors(self) -> list[TrunkSpec]:
        """List the best trunks of each point, each before its repeats, as far as these are done."""
        return [trunk for point in self._plan.points for trunk in self.survivors_of(point)]

    def survivors_of(self, point: Point) -> list[TrunkSpec]:
        """List the best trunks of a point; see :meth:`survivors`."""
        repeats = [
            trunk
            for trunk in self._of_point[point]
            if trunk.repeat and self._ended.get(trunk.key) == TrunkStatus.FINISHED
        ]
        return list(with_repeats(self._best(point), repeats))

    def _add(self, trunk: TrunkSpec) -> None:
        self._trunks[trunk.key] = trunk
        self._of_point[point_of(trunk)].append(trunk)
        self._tell_search(trunk)

    def _best(self, point: Point) -> list[TrunkSpec]:
        """List the best of a point's trunks: by how far they were trained, then by val."""
        candidates = [
            trunk
            for trunk in self._of_point[point]
            if not trunk.repeat
            and self._ended.get(trunk.key) in (TrunkStatus.FINISHED, TrunkStatus.CUT)
        ]
        candidates.sort(key=lambda t: self._merit(t.key), reverse=True)
        return candidates[: self._plan.spec.fix.survivors]

    def _repeats_to_begin(self, point: Point) -> list[TrunkSpec]:
        """List the repeats of a point that have not begun, by what is best there now."""
        times = self._plan.spec.search.repeat
        if times == 1:
            return []
        best = self._best(point)
        finished = [t for t in best if self._ended[t.key] == TrunkStatus.FINISHED]
        return repeats_to_begin(finished, times, self._trunks)

    def _note(self, key: str, report: EpochReport) -> None:
        self._reports.setdefault(key, {})[report.epoch] = report
        best = report.best_by(self._plan.metric)  # over the test resolutions
        if best is not None:
            self._values[key][report.epoch] = best.value(self._plan.metric)

    def _set_ended(self, key: str, status: TrunkStatus) -> None:
        """Take note of how a trunk has ended."""
        self._ended[key] = status
        self._tell_search(self._trunks[key])

    def _tell_search(self, trunk: TrunkSpec) -> None:
        if not trunk.repeat:
            draw = self._plan.search.draw_of(trunk)
            self._tried[trunk.variant][trunk.key] = Trial(
                point=point_of(trunk),
                hyper=draw.hyper,
                recipe=draw.recipe,
                values=self._values[trunk.key],
                running=trunk.key not in self._ended,
                finished=self._ended.get(trunk.key) == TrunkStatus.FINISHED,
            )

    def _history(self, variant: str) -> list[Trial]:
        """List what the search has tried of a variant, and of those that it learns from."""
        told = (*self._smaller.get(variant, ()), variant)
        return [trial for name in told for trial in self._tried[name].values()]

    def _merit(self, key: str) -> tuple[int, float]:
        """Return the last epoch at which a trunk was scored, and its value there."""
        return max(self._values[key].items(), default=(0, 0.0))


def repeats_to_begin(
    finished: Sequence[TrunkSpec], times: int, begun: Container[str]
) -> list[TrunkSpec]:
    """List the repeats that have not begun: each trunk's first before the second of any.

    Args:
        finished: the trunks that are repeated, the best first.
        times: how often each is trained in all.
        begun: keys of trunks that have begun.
    """
    repeats = (replace(trunk, repeat=number) for number in range(1, times) for trunk in finished)
    return [trunk for trunk in repeats if trunk.key not in begun]


def with_repeats(firsts: Iterable[TrunkSpec], repeats: Sequence[TrunkSpec]) -> Iterator[TrunkSpec]:
    """Put behind each trunk those that repeat it, in the order of their numbers."""
    for first in firsts:
        yield first
        own = (trunk for trunk in repeats if trunk.configuration == first.key)
        yield from sorted(own, key=lambda trunk: trunk.repeat)
