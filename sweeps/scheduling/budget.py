"""What of a budget is left, and what of the work still fits into it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sweeps.events.durations import Durations
from sweeps.events.event_types import CellEnded, Event
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import baseline_nets
from trainables.fixres.arms import UNTOUCHED_ARMS

# What cells of untouched nets may take at most, of what there is when phase 1 begins.
UNTOUCHED_SHARE = 0.1
# What was weighed tells what comes first until what is left, or the number of values that were
# shown, has changed by this share of it.
STALE = 0.01
# Points that are weighed anew for each value that is shown, at most: weighing all takes no larger
# part of a larger sweep.
WEIGHED_PER_VALUE = 16
Kind = tuple[str, int]  # of a cell: its variant and test resolution, px


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left of a budget; infinite where it is not bounded."""

    elapsed_s: float = math.inf
    """Seconds by the clock."""
    device_s: float = math.inf
    """Seconds of a whole device."""

    def __sub__(self, taken: Left) -> Left:
        return Left(
            elapsed_s=self.elapsed_s - taken.elapsed_s, device_s=self.device_s - taken.device_s
        )

    def __add__(self, given: Left) -> Left:
        return Left(
            elapsed_s=self.elapsed_s + given.elapsed_s, device_s=self.device_s + given.device_s
        )

    @property
    def is_enough(self) -> bool:
        """Whether there is something left."""
        return self.elapsed_s >= 0 and self.device_s >= 0


NOTHING = Left(elapsed_s=0.0, device_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Room:
    """What trunks may take at a moment, beside what is reserved for the end of the sweep."""

    results: frozenset[Point]
    """The points whose cells will be made, and are reserved for."""
    left: Left
    taken_s: float
    """Seconds of whole devices that trials which run take yet."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What decides, of all that may come next, which does."""

    best: float
    """What val decides by of the best trunk that was trained to its end; else, chance."""
    nearest_end_s: float
    """What the trunk that waits nearest to its end needs to it; 0: one has ended."""
    room: Room
    shown: int
    """How often a trunk has shown a value."""
    learnt: int
    """How often predictions have changed."""

    def is_like(self, other: Moment, points: int) -> bool:
        """Whether what was weighed at another moment still tells what comes first.

        Args:
            points: how many would be weighed anew.
        """
        pairs = [
            (self.room.left.elapsed_s, other.room.left.elapsed_s),
            (self.room.left.device_s, other.room.left.device_s),
        ]
        near = all(now == then or abs(now - then) <= STALE * abs(then) for now, then in pairs)
        if not near or (self.best, self.learnt) != (other.best, other.learnt):
            return False
        shown = self.shown - other.shown
        is_much = shown > STALE * other.shown or self.nearest_end_s != other.nearest_end_s
        return not is_much or shown < points // WEIGHED_PER_VALUE

    def has_more_than(self, other: Moment) -> bool:
        """Whether more is left than at another moment, as where reserves were given back."""
        now, then = self.room.left, other.room.left
        return now.elapsed_s > then.elapsed_s or now.device_s > then.device_s


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much of the devices trials take, and how many run at a time."""

    trunks: Mapping[tuple[str, int], float]
    """Devices of a trunk's trial, by variant and train resolution (px)."""
    cells: Mapping[tuple[str, int], float]
    """Devices of a cell's trial, by variant and test resolution (px)."""
    trunks_at_a_time: int = 1
    cells_at_a_time: int = 1


class Budget:
    """Says what fits into what is left, the end of the sweep included.

    Reserved for the end: the cells of the points that have trained a trunk to its end, or are about
    to; those of untouched nets, the cheapest first, as far as they take a tenth of what there is
    when phase 1 begins; with ``--refit``, training the choice again; reading the test split, for
    the untouched net too that the choice is compared with; and writing the results. What is
    reserved for a cell is given back when it is made: as a watcher, the budget is told of that.

    Args:
        left: tells what is left now.
    """

    def __init__(self, plan: Plan, durations: Durations, left: Callable[[], Left], shares: Shares):
        self._plan, self.durations, self._left, self._shares = plan, durations, left, shares
        self._untouched = self._affordable_untouched()
        self._made: set[str] = set()  # keys of cells
        # What is reserved: cells that are not made, by point; those of untouched nets under None.
        self._reserved: dict[Point | None, Counter[Kind]] = {None: Counter(self._untouched)}
        # Sums that are kept until they change, as each look at what fits would make them anew.
        self._learnt = durations.learnt
        self._held: dict[Point | None, Left] = {}  # what is reserved, predicted
        self._cells_s: dict[Point, float] = {}
        self._reading_s: float | None = None  # of the dearest net that may be chosen
        self._results: frozenset[Point] = frozenset()  # of which this is the sum:
        self._sum: Left | None = None

    def on(self, event: Event) -> None:
        """Give back what was reserved for a cell that is made."""
        match event:
            # Whoever asks for repeats reserves for their cells by himself.
            case CellEnded(cell=cell, rows=rows) if (
                rows and cell.key not in self._made and not cell.trunk.repeat
            ):
                self._made.add(cell.key)
                owner, before = _owner(cell), self._held_for(_owner(cell))
                self._reserved_for(owner)[cell.variant, cell.test_res] -= 1
                del self._held[owner]
                if self._sum is not None and (owner is None or owner in self._results):
                    self._sum += self._held_for(owner) - before

    def _reserved_for(self, point: Point | None) -> Counter[Kind]:
        if point is not None and point not in self._reserved:
            kinds = [(point.variant, res) for res, _ in self._plan.grid.cells(point)]
            self._reserved[point] = Counter(kinds * self._plan.survivors)
        return self._reserved[point]

    def _held_for(self, owner: Point | None) -> Left:
        """Predict the cells that are reserved for a point, or for untouched nets."""
        self._forget_what_is_no_longer_predicted()
        if owner not in self._held:
            self._held[owner] = self._of_cells(self._reserved_for(owner).elements())
        return self._held[owner]

    def _held_for_all(self, results: frozenset[Point]) -> Left:
        """Predict the cells that are reserved for points, and for untouched nets."""
        self._forget_what_is_no_longer_predicted()
        if self._sum is None:
            self._results, self._sum = frozenset(), self._held_for(None)
        if results is not self._results:
            for point in results - self._results:
                self._sum += self._held_for(point)
            for point in self._results - results:
                self._sum -= self._held_for(point)
            self._results = results
        return self._sum

    def _forget_what_is_no_longer_predicted(self) -> None:
        if self._learnt != self.durations.learnt:
            self._learnt = self.durations.learnt
            self._reading_s = self._sum = None
            self._held.clear()
            self._cells_s.clear()

    def trunk_s(self, point: Point, after: int, until: int) -> float:
        """Predict the seconds of a trunk's training after an epoch, up to another."""
        return self.durations.trunk_s(point, after, until)

    def cells_s(self, point: Point) -> float:
        """Predict the seconds of the cells of a point, one at a time."""
        self._forget_what_is_no_longer_predicted()
        if point not in self._cells_s:
            seconds = sum(
                self._cell_s(point.variant, res) for res, _ in self._plan.grid.cells(point)
            )
            self._cells_s[point] = self._plan.survivors * seconds
        return self._cells_s[point]

    def room(self, results: frozenset[Point], taken_s: float) -> Room:
        """See what trunks may take now.

        Args:
            results: the points whose cells will be made.
            taken_s: seconds of whole devices that trials which run take yet.
        """
        return Room(results=results, left=self.left_for_trunks(results), taken_s=taken_s)

    def _left_for(self, point: Point, room: Room) -> Left:
        """Tell what of it a trunk of a point may take, which brings cells of its own."""
        return room.left if point in room.results else room.left - self._held_for(point)

    def _taken(self, point: Point, seconds: float, room: Room) -> Left:
        device_s = seconds * self._devices(point) + room.taken_s
        return Left(elapsed_s=seconds, device_s=device_s)

    def fits(self, point: Point, seconds: float, room: Room) -> bool:
        """Whether a trunk of a point may be trained for so many seconds."""
        return (self._left_for(point, room) - self._taken(point, seconds, room)).is_enough

    def fits_repeat(self, point: Point, seconds: float, room: Room, begun: Left) -> bool:
        """Whether a trunk of a point may be repeated for so many seconds, with its cells.

        Args:
            begun: what the cells of those repeats take that have begun: they are to be made too.
        """
        own = self._taken(point, seconds, room) + self.repeat_cells(point)
        return (self._left_for(point, room) - begun - own).is_enough

    def repeat_cells(self, point: Point) -> Left:
        """Predict what the cells of a repeat take."""
        return self._of_cells((point.variant, res) for res, _ in self._plan.grid.cells(point))

    def trial_s(self, point: Point, room: Room) -> float:
        """Tell how many seconds trials of a point could train in all, side by side."""
        elapsed = room.left.elapsed_s * self._shares.trunks_at_a_time
        return max(0.0, min(elapsed, room.left.device_s / self._devices(point)))

    def allowance_s(self, point: Point, room: Room) -> float:
        """Bound the seconds of a trial that trains a trunk of a point."""
        left = self._left_for(point, room)
        return min(left.elapsed_s, (left.device_s - room.taken_s) / self._devices(point))

    def device_s(self, point: Point, seconds: float) -> float:
        """Convert seconds of a trunk's trial to those of a whole device."""
        return seconds * self._devices(point)

    def left_for_trunks(self, results: Iterable[Point]) -> Left:
        """Tell what is left without what is reserved for the end; arguments as of :meth:`room`."""
        spawn = Left(elapsed_s=self.durations.spawn_s, device_s=0.0)
        return self._left() - spawn - self._held_for_all(frozenset(results)) - self._end()

    def fits_early(self, cell: Cell, results: frozenset[Point], taken_s: float) -> bool:
        """Whether a cell may be made before all trunks have ended.

        It may, if it is among those that are reserved for, and all that is reserved fits.

        Args:
            results, taken_s: as in :meth:`room`.
        """
        owner = _owner(cell)
        kind = (cell.variant, cell.test_res)
        if not (owner is None or owner in results) or self._reserved_for(owner)[kind] < 1:
            return False
        taken = Left(elapsed_s=0.0, device_s=taken_s)
        return (self.left_for_trunks(results) - taken).is_enough

    def fits_cell(self, cell: Cell) -> bool:
        """Whether a cell may be made."""
        kind = (cell.variant, cell.test_res)
        return (self._left() - self._of_cells([kind], at_a_time=1) - self._end()).is_enough

    def _of_cells(self, kinds: Iterable[tuple[str, int]], at_a_time: int = 0) -> Left:
        elapsed = device = 0.0
        for kind in kinds:
            seconds = self._cell_s(*kind)
            elapsed += seconds / (at_a_time or self._shares.cells_at_a_time)
            device += seconds * self._shares.cells.get(kind, 1.0)
        return Left(elapsed_s=elapsed, device_s=device)

    def _cell_s(self, variant: str, res: int) -> float:
        return self.durations.cell_s(variant, res)

    def _end(self) -> Left:
        """Predict the end of the sweep, whatever net is chosen, on one device."""
        self._forget_what_is_no_longer_predicted()
        longest_s = self._longest_reading_s()
        return Left(elapsed_s=self.durations.close_s + longest_s, device_s=longest_s)

    def _longest_reading_s(self) -> float:
        if self._reading_s is not None:
            return self._reading_s
        counts, durations = self._plan.counts, self.durations
        # A refitted net was trained on val, and is not read on it.
        refit = self._plan.spec.evaluation.refit
        images = counts["test"] + (0 if refit else counts["val"])
        baseline_s: dict[str, float] = {}  # by variant, of its untouched net on test
        for variant, res in baseline_nets(self._plan):
            seconds = durations.reading_s(variant, res, counts["test"])
            baseline_s[variant] = max(seconds, baseline_s.get(variant, 0.0))
        readings = [
            durations.reading_s(point.variant, max(tests), images)
            + baseline_s.get(point.variant, 0.0)
            + (durations.refit_s(point, max(tests)) if refit else 0.0)
            for point, tests in self._plan.grid.tests.items()
        ]
        self._reading_s = max(readings)
        return self._reading_s

    def _affordable_untouched(self) -> list[tuple[str, int]]:
        left = self._left()
        share = UNTOUCHED_SHARE * min(left.elapsed_s * self._shares.cells_at_a_time, left.device_s)
        cells = [
            (self.durations.cell_s(variant, res, UNTOUCHED_ARMS), (variant, res))
            for variant in self._plan.untouched_variants
            for res, _ in self._plan.untouched_tests(variant)
        ]
        found, total = [], 0.0
        for seconds, kind in sorted(cells):
            total += seconds
            if total <= share:
                found.append(kind)
        return found

    def _devices(self, point: Point) -> float:
        return self._shares.trunks.get((point.variant, point.train_res), 1.0)


def _owner(cell: Cell) -> Point | None:
    """Return the point whose trunk a cell adapts; None: it is an untouched net's."""
    return None if cell.trunk.is_untouched else point_of(cell.trunk)
