"""Schedule phase 2: decide which cell comes next, and gather all rows. Knows no processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned, TrialRetried, Watcher
from sweeps.planning.cell import Cell
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_gmacs
from sweeps.selection.leaderboard import Row, make_row
from trainables.fixres.arms import rank
from trainables.fixres.cell import ArmResult, recorded_results
from trainables.models import variants
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_text
from trainables.training.trunk import EpochReport, TrunkSpec, trained_epochs

# A trunk that has ended, and the reports of its epochs.
SurvivingTrunk = tuple[TrunkSpec, tuple[EpochReport, ...]]


def cells_of(
    plan: Plan,
    survivors: Sequence[SurvivingTrunk],
    *,
    in_order: bool = False,
) -> list[Cell]:
    """List the cells of the surviving trunks and of the untouched nets.

    The dearest come first, so that the last are short.

    Args:
        survivors: trunks, each with the reports of its epochs.
        in_order: whether all cells of a trunk come before those of the next, and those of untouched
            nets last, the cheapest first: as far as time goes.
    """
    cells = [
        plan.cell(trunk, trained_epochs(reports), res, crop)
        for trunk, reports in survivors
        for res, crop in plan.grid.cells(point_of(trunk))
    ]
    cells += [
        plan.cell(trunk, 0, res, crop)
        for trunk in plan.untouched()
        for res, crop in plan.untouched_tests(trunk.variant)
    ]

    def work(cell: Cell) -> float:
        return cell_gmacs(plan, cell.variant, cell.test_res, cell.spec.arms)

    if in_order:
        place = {trunk.key: number for number, (trunk, _) in enumerate(survivors)}
        last = len(place)
        return sorted(
            cells,
            key=lambda cell: (
                place.get(cell.trunk.key, last),
                work(cell) if cell.trunk.key not in place else -work(cell),
            ),
        )
    return sorted(cells, key=lambda cell: -work(cell))


class CellScheduler:
    """The schedule of phase 2: it hands out the cells that the store lacks, and gathers all rows.

    Args:
        cells: all cells, in the order in which they are handed out; None: they are planned as the
            sweep goes on, by :meth:`plan_cells`.
        watcher: gets an event for each change.
        fits: whether there is time left for a cell, asked when it would be handed out; the first
            of all is made in any case.
    """

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[Cell] | None,
        store: Store,
        watcher: Watcher,
        fits: Callable[[Cell], bool] = lambda _: True,
    ):
        self._plan, self._store, self._watcher, self._fits = plan, store, watcher, fits
        self.left_out: list[Cell] = []
        """Cells that were not handed out, as they did not fit any more."""
        self._cells: dict[str, Cell] = {}
        self._rows: dict[str, tuple[Row, ...]] = {}
        self._waiting: list[str] = []  # keys
        self._is_first = True
        if cells is not None:
            self.plan_cells(cells)

    def plan_cells(self, cells: Sequence[Cell], *, is_last: bool = True) -> None:
        """Plan cells; of those that the store holds, the results are taken.

        Args:
            cells: all that there are by now, those that were planned before included, in the order
                in which they are handed out from now on.
            is_last: whether no more will come.
        """
        new = [cell for cell in cells if not self.knows(cell)]
        self._watcher.on(CellsPlanned(cells=tuple(new), is_last=is_last))
        self._cells |= {cell.key: cell for cell in new}
        for cell in new:
            results = recorded_results(self._store, cell.key)
            if results is not None and {r.arm for r in results} == set(cell.spec.arms):
                self.take(cell.key, results)
        waiting = {*self._waiting, *(c.key for c in new if c.key not in self._rows)}
        self._waiting = [cell.key for cell in cells if cell.key in waiting]
        self._is_first = self._is_first and not self._rows

    def knows(self, cell: Cell) -> bool:
        """Whether a cell has been planned."""
        return cell.key in self._cells

    @property
    def plan(self) -> Plan:
        """The plan of the sweep."""
        return self._plan

    @property
    def upcoming(self) -> Cell | None:
        """The cell that is handed out next, if it fits; None: none is left."""
        return self._cells[self._waiting[0]] if self._waiting else None

    @property
    def left(self) -> int:
        """How many cells are left to hand out."""
        return len(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether there is no cell left to hand out."""
        return not self._waiting

    @property
    def rows(self) -> list[Row]:
        """The rows of all cells that have ended: of untouched nets, then in the family's order."""
        rows = [row for rows in self._rows.values() for row in rows]
        family = list(variants.VARIANTS)  # in whatever order the options name them
        return sorted(
            rows,
            key=lambda r: (
                not r.untouched,
                family.index(r.variant),
                r.train_res,
                r.test_res,
                r.crop_pct,
                r.trunk,
                rank(r.arm),
            ),
        )

    def next(self) -> Cell | None:
        """Hand out the next cell; None: no more."""
        while self._waiting:
            cell = self._cells[self._waiting.pop(0)]
            if self._fits(cell) or self._is_first:
                self._is_first = False
                self._watcher.on(CellBegan(cell=cell))
                return cell
            self.left_out.append(cell)
        return None

    def take(self, key: str, results: Sequence[ArmResult]) -> None:
        """Take the results of a cell; where they come twice, the first are kept."""
        if key in self._rows:
            return
        cell = self._cells[key]
        cost = self._plan.costs[cell.variant, cell.test_res]
        self._rows[key] = tuple(make_row(cell, cost, result) for result in results)
        self._watcher.on(CellEnded(cell=cell, rows=self._rows[key]))

    def retried(self, key: str, error: str) -> None:
        """Report that a trial of the cell failed, and that another is started."""
        cell = self._cells[key]
        self._watcher.on(TrialRetried(trunk=cell.trunk, cell=cell, error=error))

    def failed(self, key: str, error: str) -> None:
        """Give the cell up: the sweep goes on without it, and the next start tries it again."""
        write_text(self._store.cell(key) / "error.txt", error)
        self._watcher.on(CellEnded(cell=self._cells[key], rows=(), error=error))
