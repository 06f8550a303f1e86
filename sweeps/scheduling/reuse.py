"""Count what of a plan the store holds already, before anything is spent. Writes nothing."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeps.output.location import SweepLocation
from sweeps.output.sweep_record import SweepRecord
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import planned_cells, planned_trunks
from sweeps.scheduling.cell_scheduler import SurvivingTrunk, cells_of
from sweeps.scheduling.journal import read_journal
from sweeps.scheduling.trunk_results import with_repeats
from trainables.errors import UserError
from trainables.fixres.reuse.kept_arms import Kept, find_kept
from trainables.storage.artifact_store import Store
from trainables.training.trunk import (
    TrunkSpec,
    TrunkStatus,
    recorded_end,
)


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """What the store holds of a plan."""

    trunks: int
    """Trunks that have ended."""
    trunks_planned: int
    cells: int
    """Cells that are done or lie in others whole, of untouched nets and the best trunks so far."""
    cells_planned: int
    arms: int
    """Arms of planned cells that are there, be it in cells that are not done."""
    arms_planned: int
    trunks_again: int = 0
    """Best trunks so far that new cells or trunks need, and whose weights are gone."""
    arms_again: int = 0
    """Arms that were worked out, and of which files are gone."""

    @property
    def again_in_words(self) -> str:
        """What is finished and would be made again; empty where nothing is."""
        trunks = f"the weights of {self.trunks_again} trunk(s), which new cells or trunks need"
        arms = f"files of {self.arms_again} finished arm(s) of cells"
        parts = [*([trunks] if self.trunks_again else []), *([arms] if self.arms_again else [])]
        return " and ".join(parts)

    @property
    def in_words(self) -> list[str]:
        """Two lines; none where the store holds nothing."""
        if not (self.trunks or self.cells):
            return []
        new_trunks, new_cells = self.trunks_planned - self.trunks, self.cells_planned - self.cells
        better = ", and those of new trunks that are better" if new_trunks else ""
        return [
            f"reused   trunks: {self.trunks} of {self.trunks_planned} are there, {new_trunks} to "
            "train",
            f"reused   cells: {self.cells} of {self.cells_planned} are there, with {self.arms} of "
            f"{self.arms_planned} arms; {new_cells} to work out{better}",
        ]


def reuse_of(plan: Plan, store: Store) -> Reuse:
    """Count what the store holds of a plan.

    Raises:
        UserError: the store is that of another sweep.
    """
    asked = {trunk.key: trunk for trunk in read_journal(store, plan).asked}
    ends = {key: end for key in asked if (end := recorded_end(store, key)) is not None}
    trained = (TrunkStatus.FINISHED, TrunkStatus.CUT)
    trunks = [(asked[key], reports) for key, (status, reports) in ends.items() if status in trained]
    best = _best(plan, trunks)
    cells = cells_of(plan, best)
    done = [cell for cell in cells if (store.cell(cell.key) / "rows.json").exists()]
    found = find_kept(store, [cell.spec for cell in cells])
    kept = found.kept
    whole = [cell for cell in cells if cell.key in kept and _is_whole(cell, kept[cell.key])]
    finished = {cell.key for cell in [*done, *whole]}
    needed = {cell.trunk.key for cell in cells if cell.key not in finished} & asked.keys()
    needed |= _parents_of_new(plan, list(asked.values()), [trunk for trunk, _ in best], ends)
    return Reuse(
        trunks=len(ends),
        trunks_planned=planned_trunks(plan, asked.values()),
        cells=len(done) + len(whole),
        cells_planned=plan.cells,
        arms=_arms(done) + sum(len(taken.arms) for taken in kept.values()),
        arms_planned=_arms_planned(plan),
        trunks_again=sum(not (store.trunk(key) / "trunk.safetensors").exists() for key in needed),
        arms_again=sum(map(len, found.lacking.values())),
    )


def reuse_lines(
    plan: Plan, location: SweepLocation, record: SweepRecord, identity: Mapping[str, Any]
) -> list[str]:
    """Say what the store holds of a plan, if anything.

    Weights that are missing, though this command changes nothing of what the sweep is over, are a
    damage, which is told and mended where they are needed.

    Args:
        record: of the sweep, as the command before this one left it.
        identity: that of the plan's sweep.

    Raises:
        UserError: something that was finished would be made again, and ``--remake`` is not given.
    """
    reuse = reuse_of(plan, location.store)
    if not record.is_changed_by(identity):
        reuse = replace(reuse, trunks_again=0)
    if reuse.again_in_words and not plan.spec.run.remake:
        raise UserError(
            f"--out {location.out} lacks {reuse.again_in_words}: --keep has deleted them, or an "
            "earlier version did not write them; give --remake to make them again, or leave "
            "out what needs them."
        )
    again = reuse.again_in_words
    return [*reuse.in_words, *([f"again    {again}: made again (--remake)"] if again else [])]


def _is_whole(cell: Cell, kept: Kept) -> bool:
    return set(kept.arms) == set(cell.spec.arms)


def _best(plan: Plan, trunks: Sequence[SurvivingTrunk]) -> list[SurvivingTrunk]:
    """List the best trunks of each point, as many as have cells."""

    def merit(trunk: SurvivingTrunk) -> tuple[int, float]:
        values = [
            (r.epoch, best.value(plan.metric)) for r in trunk[1] if (best := r.best_by(plan.metric))
        ]
        return max(values, default=(0, 0.0))

    by_point: dict[Point, list[SurvivingTrunk]] = {point: [] for point in plan.points}
    for trunk in sorted(trunks, key=merit, reverse=True):
        if not trunk[0].repeat:
            by_point[point_of(trunk[0])].append(trunk)
    best = [trunk for found in by_point.values() for trunk in found[: plan.survivors]]
    reports = {trunk.key: reports for trunk, reports in trunks}
    repeats = [trunk for trunk, _ in trunks if trunk.repeat]
    return [(trunk, reports[trunk.key]) for trunk in with_repeats([t for t, _ in best], repeats)]


def _parents_of_new(
    plan: Plan, asked: Sequence[TrunkSpec], best: Sequence[TrunkSpec], ended: Container[str]
) -> set[str]:
    """Name the trunks that those to be trained start from, as far as they are there already.

    Args:
        best: the best trunks of each point so far.
    """
    found = set()
    for point in plan.cascading:
        own = [trunk for trunk in asked if point_of(trunk) == point]
        left = sum(trunk.key in ended for trunk in own) < plan.trunks_at(point)
        below = [trunk.key for trunk in best if point_of(trunk) == plan.below(point)]
        if left and own and own[0].parent is not None:
            found.add(own[0].parent.trunk)
        elif left and not own:
            found |= set(below[:1])
    return found


def _arms(cells: Sequence[Cell]) -> int:
    return sum(len(cell.spec.arms) for cell in cells)


def _arms_planned(plan: Plan) -> int:
    """Count the arms of all cells of a plan, also of those whose trunks are not trained yet."""
    return sum(count * len(arms) for (_, _, arms), count in planned_cells(plan).items())
