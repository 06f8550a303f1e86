"""Phase 2 as decisions: which cell next, and the rows of all. Knows no processes."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.events.event_types import CellBegan, CellEnded, CellsPlanned, TrialRetried, Watcher
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row, make_row
from trainables.fixres.arms import rank
from trainables.fixres.cell import ArmResult, CellSpec, recorded_results
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_text
from trainables.training.trunk import EpochReport, TrunkSpec, trained_epochs


def cells_of(
    plan: Plan, survivors: Sequence[tuple[TrunkSpec, tuple[EpochReport, ...]]]
) -> list[tuple[CellSpec, TrunkSpec, int]]:
    """Every cell: its trunk, and the epochs that this was trained. Dearest first, so that the last
    to run are short."""
    cells = [
        (plan.cell(trunk.variant, trunk.key, res), trunk, trained_epochs(reports))
        for trunk, reports in survivors
        for res in plan.grid.tests[point_of(trunk)]
    ]
    return sorted(cells, key=lambda c: -plan.cell_work(c[1].variant, c[0].test_res))


class CellScheduler:
    """Phase 2: hands out the cells that the store lacks, and gathers the rows of all."""

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[tuple[CellSpec, TrunkSpec, int]],
        store: Store,
        watcher: Watcher,
    ):
        self._plan, self._store, self._watcher = plan, store, watcher
        self._cells = {cell.key: (cell, trunk, epochs) for cell, trunk, epochs in cells}
        self._rows: dict[str, tuple[Row, ...]] = {}
        watcher.on(CellsPlanned(cells=tuple((c, t) for c, t, _ in cells)))
        for key in self._cells:
            results = recorded_results(store, key)
            if results is not None:
                self.take(key, results)
        self._waiting = [key for key in self._cells if key not in self._rows]

    @property
    def plan(self) -> Plan:
        return self._plan

    def variant(self, key: str) -> str:
        """Of a cell's trunk."""
        return self._cells[key][1].variant

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

    def next(self) -> CellSpec | None:
        if not self._waiting:
            return None
        cell, trunk, _ = self._cells[self._waiting.pop(0)]
        self._watcher.on(CellBegan(cell=cell, trunk=trunk))
        return cell

    def take(self, key: str, results: Sequence[ArmResult]) -> None:
        """The results of a cell; told twice, it is taken once."""
        if key in self._rows:
            return
        cell, trunk, epochs = self._cells[key]
        cost = self._plan.costs[trunk.variant, cell.test_res]
        self._rows[key] = tuple(
            make_row(trunk, epochs, key, cell.test_res, cost, arm) for arm in results
        )
        self._watcher.on(CellEnded(cell=cell, trunk=trunk, rows=self._rows[key]))

    def retried(self, key: str, error: str) -> None:
        """A trial of the cell failed, and another comes."""
        cell, trunk, _ = self._cells[key]
        self._watcher.on(TrialRetried(trunk=trunk, cell=cell, error=error))

    def failed(self, key: str, error: str) -> None:
        """The cell cannot be worked out; the sweep goes on without it."""
        cell, trunk, _ = self._cells[key]
        write_text(self._store.cell(key) / "error.txt", error)
        self._watcher.on(CellEnded(cell=cell, trunk=trunk, rows=(), error=error))
