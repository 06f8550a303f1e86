"""Hand out the cells of points whose trunks are settled, beside the trunks of other points.

A point is settled when all of its trunks have ended: which of them survive is decided then,
whatever comes of other points. Its cells, and those of untouched nets, which wait for no trunk,
fill what trunks leave idle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling.cell_scheduler import CellScheduler, SurvivingTrunk, cells_of
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
        in_order: whether the best trunk's cells come first, as within a budget; else the dearest.
    """

    def __init__(
        self, trunks: TrunkScheduler, cells: CellScheduler, store: Store, *, in_order: bool = False
    ):
        self._plan: Plan = trunks.plan
        self._trunks, self.cells, self._store, self._in_order = trunks, cells, store, in_order
        self._settled: frozenset[Point] | None = None  # the points whose cells are planned
        self._are_all = False
        self._survivors: dict[str, SurvivingTrunk] = {}  # by key
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
        if not self._are_all and settled != self._settled:
            self._plan_cells(settled)
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
            self._plan_cells(frozenset(self._plan.points), is_last=True)

    def _plan_cells(self, settled: frozenset[Point], *, is_last: bool = False) -> None:
        if self._settled is None:  # the first that are planned have those of untouched nets
            for untouched in self._plan.untouched():
                write_untouched(untouched, len(self._plan.classes), self._store)
        self._settled, self._are_all = settled, is_last
        survivors = [t for t in self._trunks.survivors() if point_of(t) in settled]
        for trunk in survivors:
            if trunk.key not in self._survivors:
                reports = tuple(recorded_reports(self._store, trunk.key))
                self._survivors[trunk.key] = (trunk, reports)
        cells = cells_of(
            self._plan, [self._survivors[t.key] for t in survivors], in_order=self._in_order
        )
        self._prepare([cell for cell in cells if not self.cells.knows(cell)])
        self.cells.plan_cells(cells, is_last=is_last)

    def _prepare(self, cells: Sequence[Cell]) -> None:
        """Take what the store has of cells that are planned now, and check what they need."""
        if self._has_others:
            take_from_others(self._store, [cell.spec for cell in cells])
        check_trunks(self._store, cells)
