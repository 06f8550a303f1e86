"""Schedule phase 2: decide which cell comes next, and gather all rows. Knows no processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned, TrialRetried, Watcher
from sweeps.planning.cell import Cell
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_gmacs
from sweeps.selection.leaderboard import Row, make_row
from trainables.evaluation.class_metrics import Metric
from trainables.fixres.arms import rank
from trainables.fixres.cell import ArmResult, recorded_results
from trainables.models import variants
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_text
from trainables.training.trunk import EpochReport, TrunkSpec, trained_epochs

# A trunk that has ended, and the reports of its epochs.
SurvivingTrunk = tuple[TrunkSpec, tuple[EpochReport, ...]]


Order = tuple[float, ...]  # of a cell: the less, the sooner


class CellOrder:
    """The order in which cells are handed out, whenever they are planned.

    The dearest come first, so that the last are short.

    Args:
        best_first: whether all cells of the best trunk come before those of the next, and those of
            untouched nets last, the cheapest first: as far as time goes.
    """

    def __init__(self, plan: Plan, *, best_first: bool = False):
        self._plan, self._best_first = plan, best_first
        self._place = {point: place for place, point in enumerate(plan.points)}

    def of_trunks(self, survivors: Sequence[SurvivingTrunk]) -> list[tuple[Order, Cell]]:
        """List the cells of surviving trunks, each with its order.

        Args:
            survivors: among them all of a point, in their order.
        """
        found: list[tuple[Order, Cell]] = []
        for number, (trunk, reports) in enumerate(survivors):
            point, epochs = point_of(trunk), trained_epochs(reports)
            value = _last_value(reports, self._plan.metric) if self._best_first else 0.0
            place = self._place[point], number
            for test, (res, crop) in enumerate(self._plan.grid.cells(point)):
                cell = self._plan.cell(trunk, epochs, res, crop)
                dearest = -self._work(cell)
                order = (
                    (0, trunk.repeat > 0, -value, *place, dearest, test)
                    if self._best_first
                    else (dearest, 0, *place, test)
                )
                found.append((order, cell))
        return sorted(found, key=lambda ranked: ranked[0])

    def of_untouched(self) -> list[tuple[Order, Cell]]:
        """List the cells of the untouched nets, each with its order."""
        cells = [
            self._plan.cell(trunk, 0, res, crop)
            for trunk in self._plan.untouched()
            for res, crop in self._plan.untouched_tests(trunk.variant)
        ]
        found: list[tuple[Order, Cell]] = []
        for number, cell in enumerate(cells):
            work = self._work(cell)
            found.append(((1, work, number) if self._best_first else (-work, 1, number), cell))
        return sorted(found, key=lambda ranked: ranked[0])

    def _work(self, cell: Cell) -> float:
        return cell_gmacs(self._plan, cell.variant, cell.test_res, cell.spec.arms)


def _last_value(reports: Sequence[EpochReport], metric: Metric) -> float:
    """Return a trunk's value on val where it was scored last; 0 where it never was."""
    scores = (report.best_by(metric) for report in reversed(reports))
    return next((score.value(metric) for score in scores if score is not None), 0.0)


def cells_of(
    plan: Plan, survivors: Sequence[SurvivingTrunk], *, best_first: bool = False
) -> list[Cell]:
    """List the cells of all surviving trunks and of the untouched nets; see :class:`CellOrder`."""
    order = CellOrder(plan, best_first=best_first)
    ranked = [*order.of_trunks(survivors), *order.of_untouched()]
    return [cell for _, cell in sorted(ranked, key=lambda one: one[0])]


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
        self._waiting: list[tuple[Order, str]] = []  # keys, as a heap
        self._is_first = True
        if cells is not None:
            self.plan_cells([((place,), cell) for place, cell in enumerate(cells)])

    def plan_cells(self, cells: Sequence[tuple[Order, Cell]], *, is_last: bool = True) -> None:
        """Plan further cells; of those that the store holds, the results are taken.

        Args:
            cells: each with its order among all that wait.
            is_last: whether no more will come.
        """
        self._watcher.on(CellsPlanned(cells=tuple(cell for _, cell in cells), is_last=is_last))
        self._cells |= {cell.key: cell for _, cell in cells}
        for order, cell in cells:
            results = recorded_results(self._store, cell.key)
            if results is not None and {r.arm for r in results} == set(cell.spec.arms):
                self.take(cell.key, results)
            else:
                heappush(self._waiting, (order, cell.key))
        self._is_first = self._is_first and not self._rows

    @property
    def plan(self) -> Plan:
        """The plan of the sweep."""
        return self._plan

    @property
    def upcoming(self) -> Cell | None:
        """The cell that is handed out next, if it fits; None: none is left."""
        return self._cells[self._waiting[0][1]] if self._waiting else None

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
        return sorted(  # in whatever order the options name them
            rows,
            key=lambda r: (
                not r.untouched,
                variants.order(r.variant),
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
            cell = self._cells[heappop(self._waiting)[1]]
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

    def retried(self, key: str, error: str, left: str = "") -> None:
        """Report that a trial failed, and another is started; ``left`` as in TrialRetried."""
        cell = self._cells[key]
        self._watcher.on(TrialRetried(trunk=cell.trunk, cell=cell, error=error, left=left))

    def failed(self, key: str, error: str) -> None:
        """Give the cell up: the sweep goes on without it, and the next start tries it again."""
        write_text(self._store.cell(key) / "error.txt", error)
        self._watcher.on(CellEnded(cell=self._cells[key], rows=(), error=error))
