"""What the trunks of phase 1 have shown: which are the best, what is repeated or starts from them.

What is repeated, trained again with other seeds and all else alike, are the trunks of a point that
are fixed, once it is known which, and only those that were trained to their end. The first training
counts as one of them.

With ``--cascade`` the trunks of a point start from the best finished one of the next smaller train
resolution, all of them from the same: which one is decided when the first of them begins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.savings.cascade import cascade_in_words
from sweeps.planning.workload import dearest_first, smaller_variants
from sweeps.scheduling.early_end import halving_of
from sweeps.scheduling.proposals import Trial
from trainables.training.trunk import EpochReport, Parent, TrunkSpec, TrunkStatus


class TrunkResults:
    """The trunks that were proposed, their reports, and how they ended."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._trunks: dict[str, TrunkSpec] = {}  # by key, in the order of the proposals
        self._of_point: dict[Point, list[TrunkSpec]] = defaultdict(list)  # the same
        self._values: dict[str, dict[int, float]] = defaultdict(dict)  # by key and epoch
        self._reports: dict[str, dict[int, EpochReport]] = {}  # by key and epoch
        self._ended: dict[str, TrunkStatus] = {}  # by key
        self._parents: dict[Point, Parent | None] = {}  # of the points whose first trunk has begun
        self._epochs = {point: plan.epochs_at(point) for point in plan.points}
        self._samples = {point: plan.samples_at(point) for point in plan.points}
        self._halving = {
            point: halving_of(plan, self._samples[point], self._epochs[point])
            for point in dearest_first(plan)
        }
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

    def parent_at(self, point: Point) -> Parent | None:
        """Say from what the trunks of a point start, or would start now; None: from the weights.

        It is the best finished trunk of the next smaller train resolution, repeats apart; where
        none has finished there, that of the next smaller.
        """
        if point in self._parents:
            return self._parents[point]
        below = self._plan.below(point)
        while below is not None:
            for trunk in self._best(below):
                if self._ended[trunk.key] == TrunkStatus.FINISHED:
                    return Parent(trunk=trunk.key, train_res=trunk.train_res)
            below = self._plan.below(below)
        return None

    def _waits(self, point: Point) -> bool:
        """Whether trunks of a point wait for the one that they start from."""
        parent = self._parents.get(point)
        if parent is not None:  # It is trained again where its weights were lost.
            return parent.trunk in self._trunks and parent.trunk not in self._ended
        below = self._plan.below(point)
        return point not in self._parents and below is not None and not self._is_known(below)

    def _is_known(self, point: Point) -> bool:
        """Whether it is known which trunks of a point are the best: all but repeats have ended."""
        halving = self._halving[point]
        return not (halving.to_begin or halving.waiting) and all(
            self._trunks[key].repeat for key in halving.running
        )

    def _rungs(self, point: Point) -> tuple[int, ...]:
        """List the rungs of a point, as epochs; the last epoch is no rung, but the end."""
        return self._plan.rungs_to(self._epochs[point])[:-1]

    @property
    def cascade(self) -> str:
        """Say which trunks started from others, and which did not; empty: it is not asked for."""
        parents = {p: self._parents[p] for p in self._plan.cascading if p in self._parents}
        return cascade_in_words(self._plan.spec, parents, len(self._plan.points))

    def _add(self, trunk: TrunkSpec) -> None:
        point = point_of(trunk)
        if point not in self._parents:  # all of the point start as its first one does
            self._parents[point] = trunk.parent
            samples, epochs = self._plan.samples_with(trunk), trunk.recipe.epochs
            if (samples, epochs) != (self._samples[point], self._epochs[point]):
                self._samples[point], self._epochs[point] = samples, epochs
                self._halving[point] = halving_of(self._plan, samples, epochs)
        self._trunks[trunk.key] = trunk
        self._of_point[point].append(trunk)
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


def status_after(trunk: TrunkSpec, report: EpochReport) -> TrunkStatus | None:
    """Say how a trunk has ended with this report; None: it has not."""
    if report.diverged:
        return TrunkStatus.DIVERGED
    return TrunkStatus.FINISHED if report.epoch >= trunk.recipe.epochs else None


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
