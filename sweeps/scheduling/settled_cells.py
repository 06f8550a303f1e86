"""Hand out the cells of points whose trunks are settled, beside the trunks of other points.

A point is settled when all of its trunks have ended: which of them survive is decided then,
whatever comes of other points. Its cells, and those of untouched nets, which wait for no trunk,
fill what trunks leave idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from sweeps.scheduling.cell_scheduler import CellOrder, CellScheduler
from sweeps.scheduling.repair import check_trunks
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from trainables.fixres.reuse.kept_arms import take_from_others
from trainables.storage.artifact_store import Store
from trainables.storage.files import children
from trainables.training.trunk import recorded_reports
from trainables.training.untouched import write_untouched


class SettledCells:
    """Gives a cell scheduler its cells, as points are settled.

    Args:
        cells: has no cells yet.
        best_first: whether the best trunk's cells come first, as within a budget; else the dearest.
    """

    def __init__(
        self,
        trunks: TrunkScheduler,
        cells: CellScheduler,
        store: Store,
        *,
        best_first: bool = False,
    ):
        self._plan: Plan = trunks.plan
        self._trunks, self.cells, self._store = trunks, cells, store
        self._order = CellOrder(self._plan, best_first=best_first)
        self._planned: set[Point] | None = None  # None: those of untouched nets are not either
        self._are_all = False
        # What others made was there before: what this process makes is of the plan itself.
        self._has_others = bool(children(store.cells))

    @property
    def is_over(self) -> bool:
        """Whether all cells are planned, and none is left to hand out."""
        return self._are_all and self.cells.is_over

    def next(self) -> Cell | None:
        """Hand out the next cell; None: there is none for now.

        Raises:
            DamagedFileError: weights that its cells need are damaged.
        """
        settled = self._trunks.settled
        planned = -1 if self._planned is None else len(self._planned)
        if not self._are_all and len(settled) > planned:
            self._plan_cells(list(islice(settled, max(0, planned), None)))
        cell = self.cells.upcoming
        if cell is None or not (self._are_all or self._trunks.leaves_room_for(cell)):
            return None
        return self.cells.next()

    def plan_all(self) -> None:
        """Plan all cells that are not planned yet, as no trunk will be trained any more.

        Raises:
            DamagedFileError: as :meth:`next`.
        """
        if not self._are_all:
            planned = self._planned or set()
            self._plan_cells([p for p in self._plan.points if p not in planned], is_last=True)

    def _plan_cells(self, points: Sequence[Point], *, is_last: bool = False) -> None:
        """Plan the cells of points that are settled and, at first, those of untouched nets."""
        survivors = [
            (trunk, tuple(recorded_reports(self._store, trunk.key)))
            for point in points
            for trunk in self._trunks.survivors_of(point)
        ]
        ranked = self._order.of_trunks(survivors)
        if self._planned is None:
            for untouched in self._plan.untouched():
                write_untouched(untouched, len(self._plan.classes), self._store)
            ranked += self._order.of_untouched()
        cells = [cell for _, cell in ranked]
        if self._has_others:
            take_from_others(self._store, [cell.spec for cell in cells])
        check_trunks(self._store, cells)
        self.cells.plan_cells(ranked, is_last=is_last)
        self._planned = self._planned or set()
        self._planned.update(points)
        self._are_all = is_last
