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

    @property
    def is_enough(self) -> bool:
        """Whether there is something left."""
        return self.elapsed_s >= 0 and self.device_s >= 0


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
    when phase 1 begins; reading the test split, for the untouched net too that the choice is
    compared with; and writing the results. What is reserved for a cell is given back when it is
    made: as a watcher, the budget is told of that.

    Args:
        left: tells what is left now.
    """

    def __init__(self, plan: Plan, durations: Durations, left: Callable[[], Left], shares: Shares):
        self._plan, self.durations, self._left, self._shares = plan, durations, left, shares
        self._untouched = self._affordable_untouched()
        self._made: set[str] = set()  # keys of cells
        # What is reserved: cells that are not made, by point; those of untouched nets under None.
        self._reserved: dict[Point | None, Counter[Kind]] = {None: Counter(self._untouched)}

    def on(self, event: Event) -> None:
        """Give back what was reserved for a cell that is made."""
        match event:
            # Whoever asks for repeats reserves for their cells by himself.
            case CellEnded(cell=cell, rows=rows) if (
                rows and cell.key not in self._made and not cell.trunk.repeat
            ):
                self._made.add(cell.key)
                self._reserved_for(_owner(cell))[cell.variant, cell.test_res] -= 1

    def _reserved_for(self, point: Point | None) -> Counter[Kind]:
        if point is not None and point not in self._reserved:
            kinds = [(point.variant, res) for res, _ in self._plan.grid.cells(point)]
            self._reserved[point] = Counter(kinds * self._plan.survivors)
        return self._reserved[point]

    def trunk_s(self, point: Point, after: int, until: int) -> float:
        """Predict the seconds of a trunk's training after an epoch, up to another."""
        return self.durations.trunk_s(point, after, until)

    def cells_s(self, point: Point) -> float:
        """Predict the seconds of the cells of a point, one at a time."""
        cells = self._plan.grid.cells(point)
        return self._plan.survivors * sum(self._cell_s(point.variant, res) for res, _ in cells)

    def fits(self, point: Point, seconds: float, results: Iterable[Point], taken_s: float) -> bool:
        """Whether a trunk of a point may be trained for so many seconds.

        Args:
            results: the points whose cells will be made.
            taken_s: seconds of whole devices that trials which run take yet.
        """
        taken = Left(elapsed_s=seconds, device_s=seconds * self._devices(point) + taken_s)
        return (self.left_for_trunks({*results, point}) - taken).is_enough

    def fits_repeat(
        self,
        point: Point,
        seconds: float,
        results: Iterable[Point],
        taken_s: float,
        begun: Iterable[Point],
    ) -> bool:
        """Whether a trunk of a point may be repeated, with its cells; else as :meth:`fits`.

        Args:
            begun: the points of the repeats that have begun, whose cells are to be made too.
        """
        repeats = [*begun, point]
        cells = [(p.variant, res) for p in repeats for res, _ in self._plan.grid.cells(p)]
        taken = Left(elapsed_s=seconds, device_s=seconds * self._devices(point) + taken_s)
        left = self.left_for_trunks({*results, point})
        return (left - taken - self._of_cells(cells)).is_enough

    def trial_s(self, point: Point, results: Iterable[Point]) -> float:
        """Tell how many seconds trials of a point could train in all, side by side."""
        left = self.left_for_trunks(results)
        elapsed = left.elapsed_s * self._shares.trunks_at_a_time
        return max(0.0, min(elapsed, left.device_s / self._devices(point)))

    def allowance_s(self, point: Point, results: Iterable[Point], taken_s: float) -> float:
        """Bound the seconds of a trial that trains a trunk of a point; as :meth:`fits`."""
        left = self.left_for_trunks({*results, point})
        return min(left.elapsed_s, (left.device_s - taken_s) / self._devices(point))

    def device_s(self, point: Point, seconds: float) -> float:
        """Convert seconds of a trunk's trial to those of a whole device."""
        return seconds * self._devices(point)

    def left_for_trunks(self, results: Iterable[Point]) -> Left:
        """Tell what is left without what is reserved for the end."""
        cells = [kind for p in (*results, None) for kind in self._reserved_for(p).elements()]
        spawn = Left(elapsed_s=self.durations.spawn_s, device_s=0.0)
        return self._left() - spawn - self._of_cells(cells) - self._end()

    def fits_early(self, cell: Cell, results: Iterable[Point], taken_s: float) -> bool:
        """Whether a cell may be made before all trunks have ended.

        It may, if it is among those that are reserved for, and all that is reserved fits.

        Args:
            results, taken_s: as in :meth:`fits`.
        """
        owner, results = _owner(cell), set(results)
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
        counts, durations = self._plan.counts, self.durations
        # A refitted net was trained on val, and is not read on it.
        images = counts["test"] + (0 if self._plan.spec.evaluation.refit else counts["val"])
        baseline_s: dict[str, float] = {}  # by variant, of its untouched net on test
        for variant, res in baseline_nets(self._plan):
            seconds = durations.reading_s(variant, res, counts["test"])
            baseline_s[variant] = max(seconds, baseline_s.get(variant, 0.0))
        readings = [
            durations.reading_s(point.variant, max(tests), images)
            + baseline_s.get(point.variant, 0.0)
            for point, tests in self._plan.grid.tests.items()
        ]
        return Left(elapsed_s=durations.close_s + max(readings), device_s=max(readings))

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
