"""Connect the schedulers to Ray Tune: hand out trials, and report results.

Beside the two phases there is work that no scheduler decides about: what a refit and the readings
of the choice take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sweeps.events.failures import last_line
from sweeps.execution.plan_resources import cell_resources, frozen_batch, trunk_resources
from sweeps.execution.resources import NetAtRes, PhaseResources, Placement
from sweeps.execution.tasks import Phase, Queued
from sweeps.execution.tune_runner import run_trials
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.settled_cells import SettledCells
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from trainables.ray_backend.tune_trainables import (
    CellWork,
    StoreTrainable,
    TrialContext,
    TrunkWork,
    Work,
)
from trainables.storage.files import Place, write_text
from trainables.training.trunk import TrunkSpec


def run_phases(
    trunks: TrunkScheduler,
    cells: SettledCells,
    context: TrialContext,
    placement: Placement,
    trunks_ended: Callable[[], None],
) -> None:
    """Run both phases to their end: train the trunks, and adapt them in the cells.

    Cells of settled points run beside trunks of others, where these leave something idle.

    Args:
        trunks_ended: is called when no trunk will be trained any more; plans all cells.
    """
    plan = trunks.plan
    left = cells.cells.left if trunks.is_over else plan.cells
    resources = cell_resources(plan, placement, left)
    at_once = partial(frozen_batch, plan, resources)
    cell_phase = _cell_phase(cells.cells, cells.next, at_once, trunks_ended)
    phases = [(cell_phase, resources)]
    if not trunks.is_over:
        phases.insert(0, (_trunk_phase(trunks), trunk_resources(plan, placement)))
    run_trials(StoreTrainable, phases, context)


def _trunk_phase(trunks: TrunkScheduler) -> Phase:
    plan = trunks.plan

    def queue() -> Queued | None:
        point = trunks.queue()
        return None if point is None else Queued(net=(point.variant, point.train_res))

    def begin(net: NetAtRes) -> Work | None:
        trunk = trunks.begin(_point_at(net))
        if trunk is None:
            return None
        return TrunkWork(
            trunk=trunk,
            val_transforms=trunks.val_transforms(trunk),
            rungs=plan.rungs_to(trunk.recipe.epochs),
            reported=trunks.epochs_reported(trunk),
            stop_after_s=trunks.allowance_s(trunk),
        )

    def should_continue(work: Work, result: dict[str, Any]) -> bool:
        if result["report"] is None:
            trunks.stopped(_trunk_of(work))
            return False
        return trunks.report(_trunk_of(work), result["report"])

    return Phase(
        queue=queue,
        begin=begin,
        urgency=lambda net: trunks.urgency(_point_at(net)),
        should_continue=should_continue,
        failed=lambda work, error: trunks.failed(_trunk_of(work), error),
        retried=lambda work, error, left: trunks.retried(_trunk_of(work), error, left),
    )


def _point_at(net: NetAtRes) -> Point:
    variant, train_res = net
    return Point(variant=variant, train_res=train_res)


def _trunk_of(work: Work) -> TrunkSpec:
    assert isinstance(work, TrunkWork)
    return work.trunk


def run_cells(scheduler: CellScheduler, context: TrialContext, placement: Placement) -> None:
    """Work out the cells of a scheduler that wait for no trunk."""
    resources = cell_resources(scheduler.plan, placement, scheduler.left)
    phase = _cell_phase(scheduler, scheduler.next, partial(frozen_batch, scheduler.plan, resources))
    run_trials(StoreTrainable, [(phase, resources)], context)


def _cell_phase(
    scheduler: CellScheduler,
    next_cell: Callable[[], Cell | None],
    images_at_once: Callable[[Cell], int | None],
    preceded: Callable[[], None] = lambda: None,
) -> Phase:
    def queue() -> Queued | None:
        cell = next_cell()
        if cell is None:
            return None
        work = CellWork(cell=cell.spec, images_at_once=images_at_once(cell))
        return Queued(net=(cell.variant, cell.test_res), work=work)

    def should_continue(work: Work, result: dict[str, Any]) -> bool:
        scheduler.take(_key_of(work), result["results"])
        return False

    return Phase(
        queue=queue,
        preceded=preceded,
        should_continue=should_continue,
        failed=lambda work, error: scheduler.failed(_key_of(work), error),
        retried=lambda work, error, left: scheduler.retried(_key_of(work), error, left),
    )


def _key_of(work: Work) -> str:
    assert isinstance(work, CellWork)
    return work.cell.key


def run_works(
    works: Sequence[tuple[NetAtRes, Work]],
    resources: PhaseResources,
    context: TrialContext,
    should_continue: Callable[[dict[str, Any]], bool] = lambda _: False,
) -> list[str | None]:
    """Run a trial of each work to its end.

    Args:
        works: no two alike; each with the key of the resources that it gets.
        should_continue: receives each result, and decides whether the trial continues.

    Returns:
        For each work None, or the last traceback where its retries have all failed.
    """
    waiting, traces = list(works), list[tuple[Work, str]]()

    def queue() -> Queued | None:
        if not waiting:
            return None
        net, work = waiting.pop(0)
        return Queued(net=net, work=work)

    phase = Phase(
        queue=queue,
        should_continue=lambda _, result: should_continue(result),
        failed=lambda work, trace: traces.append((work, trace)),
    )
    run_trials(StoreTrainable, [(phase, resources)], context)
    return [next((trace for failed, trace in traces if failed == work), None) for _, work in works]


def failed_in_words(trace: str, folder: Place) -> str:
    """Leave the traceback of a failed trial in a folder of the store, and say why it failed."""
    path = folder / "error.txt"
    write_text(path, trace)
    return f"failed: {last_line(trace) or 'no trace'} (the whole trace is in {path})"
