"""Phase 2 as decisions: which cell next, and the rows of all. Knows no processes."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned, TrialRetried, Watcher
from sweeps.planning.cell import Cell
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_gmacs
from sweeps.selection.leaderboard import Row, make_row
from trainables.fixres.arms import rank
from trainables.fixres.cell import ArmResult, recorded_results
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_text
from trainables.training.trunk import EpochReport, TrunkSpec, trained_epochs


def cells_of(
    plan: Plan, survivors: Sequence[tuple[TrunkSpec, tuple[EpochReport, ...]]]
) -> list[Cell]:
    """List every cell of the surviving trunks, the dearest first: the last to run are short."""
    cells = [
        plan.cell(trunk, trained_epochs(reports), res)
        for trunk, reports in survivors
        for res in plan.grid.tests[point_of(trunk)]
    ]
    return sorted(cells, key=lambda cell: -cell_gmacs(plan, cell.variant, cell.test_res))


class CellScheduler:
    """Phase 2: hands out the cells that the store lacks, and gathers the rows of all."""

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[Cell],
        store: Store,
        watcher: Watcher,
    ):
        self._plan, self._store, self._watcher = plan, store, watcher
        self._cells = {cell.key: cell for cell in cells}
        self._rows: dict[str, tuple[Row, ...]] = {}
        watcher.on(CellsPlanned(cells=tuple(cells)))
        for key in self._cells:
            results = recorded_results(store, key)
            if results is not None:
                self.take(key, results)
        self._waiting = [key for key in self._cells if key not in self._rows]

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def is_over(self) -> bool:
        return not self._waiting

    @property
    def rows(self) -> list[Row]:
        """In the order of the grid, whatever the order of work."""
        rows = [r for cell in self._rows.values() for r in cell]
        grid = self._plan.spec.grid
        return sorted(
            rows,
            key=lambda r: (
                grid.variants.index(r.variant),
                r.train_res,
                r.test_res,
                r.trunk,
                rank(r.arm),
            ),
        )

    def next(self) -> Cell | None:
        """Hand out the next cell; None: no more."""
        if not self._waiting:
            return None
        cell = self._cells[self._waiting.pop(0)]
        self._watcher.on(CellBegan(cell=cell))
        return cell

    def take(self, key: str, results: Sequence[ArmResult]) -> None:
        """The results of a cell; told twice, it is taken once."""
        if key in self._rows:
            return
        cell = self._cells[key]
        cost = self._plan.costs[cell.variant, cell.test_res]
        self._rows[key] = tuple(make_row(cell, cost, result) for result in results)
        self._watcher.on(CellEnded(cell=cell, rows=self._rows[key]))

    def retried(self, key: str, error: str) -> None:
        """A trial of the cell failed, and another comes."""
        cell = self._cells[key]
        self._watcher.on(TrialRetried(trunk=cell.trunk, cell=cell, error=error))

    def failed(self, key: str, error: str) -> None:
        """The cell cannot be worked out; the sweep goes on without it."""
        write_text(self._store.cell(key) / "error.txt", error)
        self._watcher.on(CellEnded(cell=self._cells[key], rows=(), error=error))
