"""Cells beside trunks, without Ray: when each is handed out; none is lost or made twice."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweeps.events.event_types import CellsPlanned, TrunkEnded
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling.cell_scheduler import CellScheduler, cells_of
from sweeps.scheduling.settled_cells import SettledCells
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of
from tests.fake_training import SMALL_SPEC, Events, Farm, next_trunk
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json
from trainables.training.trunk import TrunkSpec, recorded_reports

PLAN = plan_of(SMALL_SPEC)


@dataclass
class Both:
    """Workers without Ray, for trunks and for what cells come beside them."""

    plan: Plan
    store: Store[Path]
    rng: random.Random
    made: Counter[str] = field(default_factory=Counter)
    early: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.events = Events()
        self.trunks = TrunkScheduler(self.plan, self.store, self.events)
        self.cells = CellScheduler(self.plan, None, self.store, self.events)
        self.settled = SettledCells(self.trunks, self.cells, self.store)
        self.farm = Farm(self.plan, self.store)

    def run(self, concurrency: int, steps: int = 10**6) -> bool:
        """Work so many steps; say whether all is done."""
        trunks: dict[str, tuple[TrunkSpec, int]] = {}
        cells: dict[str, Cell] = {}
        for _ in range(steps):
            while len(trunks) + len(cells) < concurrency:
                if (trunk := next_trunk(self.trunks)) is not None:
                    trunks[trunk.key] = (trunk, self.trunks.epochs_reported(trunk))
                    continue
                if not trunks:
                    self.settled.plan_all()
                if (cell := self.settled.next()) is None:
                    break
                assert cell.key not in cells, "handed out twice"
                cells[cell.key] = cell
                if trunks:
                    self.early.append(cell)
                    assert point_of(cell.trunk) in self.trunks.settled
            assert set(self.trunks.settled) == self._settled_by_all_trunks()
            if not (trunks or cells):
                return True
            key = self.rng.choice([*trunks, *cells])
            if key in cells:
                self._make(cells.pop(key))
                continue
            trunk, reported = trunks.pop(key)
            if self.trunks.report(trunk, self.farm.step(trunk, reported)):
                trunks[key] = (trunk, reported + 1)
        return False

    def _settled_by_all_trunks(self) -> set[Point]:
        """The points all of whose trunks have ended, by what watchers were told."""
        ended = Counter(point_of(e.trunk) for e in self.events if isinstance(e, TrunkEnded))
        return {point for point in self.plan.points if ended[point] == self.plan.samples}

    def _make(self, cell: Cell) -> None:
        score = Score(split="val", n=50, hits1=self.rng.randrange(50), hits5=50)
        results = [ArmResult(arm=arm, score=score, seconds=1.0) for arm in cell.spec.arms]
        write_json(self.store.cell(cell.key) / "rows.json", results)
        self.made[cell.key] += 1
        self.cells.take(cell.key, results)

    def wanted(self) -> Counter[str]:
        """The cells of what survives, now that all trunks have ended."""
        survivors = [
            (t, tuple(recorded_reports(self.store, t.key))) for t in self.trunks.survivors()
        ]
        return Counter(cell.key for cell in cells_of(self.plan, survivors))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_each_cell_of_what_survives_is_made_once_and_some_before_the_last_trunk_ends(
    tmp_path: Path, seed: int, concurrency: int
) -> None:
    both = Both(PLAN, Store(tmp_path), random.Random(seed))
    assert both.run(concurrency)
    assert both.made == both.wanted() and set(both.made.values()) == {1}
    assert both.settled.is_over and len(both.cells.rows) == len(both.made) * len(PLAN.spec.fix.arms)
    assert bool(both.early) == (concurrency > 1)
    planned = [event for event in both.events if isinstance(event, CellsPlanned)]
    assert [event.is_last for event in planned] == [False] * (len(planned) - 1) + [True]
    assert Counter(cell.key for event in planned for cell in event.cells) == both.made


def test_one_at_a_time_they_come_after_all_trunks_and_in_the_order_of_all(tmp_path: Path) -> None:
    both = Both(PLAN, Store(tmp_path), random.Random(0))
    both.run(1)
    assert list(both.made) == list(both.wanted())


@pytest.mark.parametrize("seed", range(8))
def test_a_driver_that_is_killed_amid_both_goes_on(tmp_path: Path, seed: int) -> None:
    rng, store, made = random.Random(seed), Store(tmp_path), Counter[str]()
    for _ in range(100):
        both = Both(PLAN, store, rng)
        is_done = both.run(3, steps=rng.randrange(5, 40))
        made += both.made
        if is_done:
            break
    assert is_done and made == both.wanted() and set(made.values()) == {1}
