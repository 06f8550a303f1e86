"""Screen a plan by the rows of its untouched nets: which points are trained at all."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.events.event_types import Watchers
from sweeps.planning.plan import Plan
from sweeps.planning.savings.screen import make_screen
from sweeps.planning.workload import nominal_ms
from sweeps.scheduling.cell_scheduler import CellScheduler, cells_of
from sweeps.selection.leaderboard import Row
from trainables.fixres.arms import ARMS
from trainables.storage.artifact_store import Store


def screened_by(plan: Plan, rows: Sequence[Row]) -> Plan:
    """Return a plan without the points that the rows of its untouched nets leave out.

    Args:
        rows: of its untouched nets on val; points without a row stay.
    """
    value: dict[tuple[str, int], float] = {}
    for row in rows:
        if row.untouched and ARMS[row.arm].plain:
            at = (row.variant, row.test_res)
            value[at] = max(value.get(at, 0.0), row.value(plan.metric))
    screen = make_screen(
        plan.spec.grid.screen,
        plan.metric,
        plan.counts["val"],
        plan.grid.tests,
        lambda variant, res: value.get((variant, res)),
        lambda point: nominal_ms(plan.costs[point.variant, point.train_res]),
        plan.bases,
    )
    return plan.screened(screen)


def screened_by_store(plan: Plan, store: Store) -> Plan:
    """Screen a plan as before: where the store has the rows of all untouched nets; else not yet."""
    if not plan.is_to_be_screened:
        return plan
    known = CellScheduler(plan, cells_of(plan, []), store, Watchers([]))
    return screened_by(plan, known.rows) if known.is_over else plan
