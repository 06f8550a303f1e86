"""Work out the cells of the untouched nets before any trunk, where they decide what is trained."""

from __future__ import annotations

from collections.abc import Callable

from sweeps.events.event_types import SweepBegan, Watcher
from sweeps.execution.budgeting import Spending
from sweeps.execution.phases import run_cells
from sweeps.execution.resources import Placement
from sweeps.planning.plan import Plan
from sweeps.scheduling.cell_scheduler import CellScheduler, cells_of
from sweeps.scheduling.repair import check_trunks
from sweeps.scheduling.screening import screened_by
from trainables.fixres.reuse.kept_arms import take_from_others
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.training.untouched import write_untouched


def run_screen(
    spent: Spending,
    context: TrialContext,
    placement: Callable[[], Placement],
    watcher: Watcher,
    say: Callable[[str], None],
) -> Plan:
    """Return the plan of the points that are trained, and have it spent by from now on.

    Args:
        placement: starts Ray, if it has not been; asked where cells are to be made.
        watcher: gets the events of the cells; whoever shows results gets them again later.
    """
    plan = spent.plan
    if plan.is_to_be_screened:
        say("screen   the untouched nets come first: they decide what is trained")
        watcher.on(SweepBegan(plan=plan, kept=spent.durations.kept))
        for untouched in plan.untouched():
            write_untouched(untouched, len(plan.classes), spent.store)
        cells = cells_of(plan, [])
        take_from_others(spent.store, [cell.spec for cell in cells])
        check_trunks(spent.store, cells)
        fits = spent.budget.fits_cell if spent.budget else lambda _: True
        scheduler = CellScheduler(plan, cells, spent.store, watcher, fits)
        if not scheduler.is_over:
            run_cells(scheduler, context, placement())
        plan = spent.plan = screened_by(plan, scheduler.rows)
        assert plan.screen is not None, "it has just been made"
        say(f"screen   {plan.screen.in_words}")
    return plan
