"""Connect the schedulers to Ray Tune: hand out trials, and report results.

Beside the two phases there is work that no scheduler decides about: what a refit and the readings
of the choice take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sweeps.events.failures import last_line
from sweeps.execution.plan_resources import cell_resources, trunk_resources
from sweeps.execution.resources import NetAtRes, PhaseResources, Placement
from sweeps.execution.tune_runner import Phase, Queued, run_trials
from sweeps.planning.grid import Point
from sweeps.scheduling.cell_scheduler import CellScheduler
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


def run_trunks(
    trunk_scheduler: TrunkScheduler, context: TrialContext, placement: Placement
) -> None:
    """Run phase 1 to its end: train the trunks that the scheduler hands out."""
    plan = trunk_scheduler.plan

    def queue() -> Queued | None:
        point = trunk_scheduler.queue()
        return None if point is None else Queued(net=(point.variant, point.train_res))

    def begin(net: NetAtRes) -> Work | None:
        trunk = trunk_scheduler.begin(_point_at(net))
        if trunk is None:
            return None
        return TrunkWork(
            trunk=trunk,
            val_transforms=trunk_scheduler.val_transforms(trunk),
            reported=trunk_scheduler.epochs_reported(trunk),
            stop_after_s=trunk_scheduler.allowance_s(trunk),
        )

    def should_continue(work: Work, result: dict[str, Any]) -> bool:
        if result["report"] is None:
            trunk_scheduler.stopped(_trunk_of(work))
            return False
        return trunk_scheduler.report(_trunk_of(work), result["report"])

    phase = Phase(
        queue=queue,
        begin=begin,
        urgency=lambda net: trunk_scheduler.urgency(_point_at(net)),
        should_continue=should_continue,
        failed=lambda work, error: trunk_scheduler.failed(_trunk_of(work), error),
        retried=lambda work, error: trunk_scheduler.retried(_trunk_of(work), error),
    )
    run_trials(StoreTrainable, phase, context, trunk_resources(plan, placement))


def _point_at(net: NetAtRes) -> Point:
    variant, train_res = net
    return Point(variant=variant, train_res=train_res)


def _trunk_of(work: Work) -> TrunkSpec:
    assert isinstance(work, TrunkWork)
    return work.trunk


def run_cells(cell_scheduler: CellScheduler, context: TrialContext, placement: Placement) -> None:
    """Run phase 2 to its end: adapt the trunks in the cells that the scheduler hands out."""

    def queue() -> Queued | None:
        cell = cell_scheduler.next()
        if cell is None:
            return None
        return Queued(net=(cell.variant, cell.test_res), work=CellWork(cell=cell.spec))

    def should_continue(work: Work, result: dict[str, Any]) -> bool:
        cell_scheduler.take(_key_of(work), result["results"])
        return False

    phase = Phase(
        queue=queue,
        should_continue=should_continue,
        failed=lambda work, error: cell_scheduler.failed(_key_of(work), error),
        retried=lambda work, error: cell_scheduler.retried(_key_of(work), error),
    )
    phase_resources = cell_resources(cell_scheduler.plan, placement, cell_scheduler.left)
    run_trials(StoreTrainable, phase, context, phase_resources)


def _key_of(work: Work) -> str:
    assert isinstance(work, CellWork)
    return work.cell.key


def run_works(
    works: Sequence[Work],
    resources: PhaseResources,
    context: TrialContext,
    should_continue: Callable[[dict[str, Any]], bool] = lambda _: False,
) -> list[str | None]:
    """Run a trial of each work to its end.

    Args:
        works: no two alike.
        resources: have one key, for all of them.
        should_continue: receives each result, and decides whether the trial continues.

    Returns:
        For each work None, or the last traceback where its retries have all failed.
    """
    (net,) = resources.needs
    waiting, traces = list(works), list[tuple[Work, str]]()
    phase = Phase(
        queue=lambda: Queued(net=net, work=waiting.pop(0)) if waiting else None,
        should_continue=lambda _, result: should_continue(result),
        failed=lambda work, trace: traces.append((work, trace)),
    )
    run_trials(StoreTrainable, phase, context, resources)
    return [next((trace for failed, trace in traces if failed == work), None) for work in works]


def failed_in_words(trace: str, folder: Place) -> str:
    """Leave the traceback of a failed trial in a folder of the store, and say why it failed."""
    path = folder / "error.txt"
    write_text(path, trace)
    return f"failed: {last_line(trace) or 'no trace'} (the whole trace is in {path})"
