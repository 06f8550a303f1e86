"""The parts of the driver that benchmarks/scale.py measures, each at a size."""

from __future__ import annotations

import io
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from sweeps.events.durations import Durations
from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    SweepBegan,
    TrunkEnded,
)
from sweeps.events.forecast import forecast
from sweeps.events.live_board import LiveBoard
from sweeps.events.recorders import History
from sweeps.planning.cell import Cell
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.report.build import write_evidence
from sweeps.scheduling import settled_cells, trunk_scheduler
from sweeps.scheduling.budget import Budget, Left, Shares
from sweeps.scheduling.budgeted_trunks import BudgetedTrunks
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.settled_cells import SettledCells
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from sweeps.selection.from_store import choose_from_store
from sweeps.selection.leaderboard import Row
from sweeps.terminal.console import Terminal
from tests.factories import HYPER, a_record, a_row, outcome_of, plan_of, spec_with
from tests.fake_training import Events, next_trunk, report_of
from trainables.evaluation.class_metrics import Metric
from trainables.evaluation.metrics import Score
from trainables.fixres.arms import rank
from trainables.fixres.cell import PREDICTIONS, ArmResult, write_predictions
from trainables.storage.artifact_store import Store
from trainables.storage.files import files_size
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

ARMS, VAL, LARGE_VAL = ("none", "bn", "fix", "fix_aug"), 100, 5_000
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")


@dataclass
class Measured:
    """What a part took at a size."""

    events: int
    seconds: float
    written: int = 0
    note: str = ""
    peak_mb: float = 0.0


class Stopwatch:
    """Adds up the CPU time of what runs in it."""

    seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - began

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.running():
                return function(*args, **kwargs)

        return call


# --- trunks -------------------------------------------------------------------------------------


class TrunkFiles:
    """Stands for the files of trunks, which cost the same for each: their reports alone."""

    def __init__(self) -> None:
        self.reports: dict[str, list[EpochReport]] = {}
        trunk_scheduler.finalize_trunk = lambda *_: None  # type: ignore[assignment]
        trunk_scheduler.recorded_reports = lambda _, key: self.reports.get(key, [])


def trunk_plan(size: int, *, wide: bool) -> Plan:
    points = max(1, size // 8) if wide else 8
    variants = VARIANTS[: max(1, math.ceil(points / 100))] if wide else ("b0",)
    per_variant = math.ceil(points / len(variants))
    resolutions = tuple(64 + 2 * i for i in range(per_variant))
    options = {"epochs": 9, "grace_epochs": 1, "reduction": 3, "test_res": (64,)}
    spec = spec_with(
        variants=variants, train_res=resolutions, samples=math.ceil(size / points), **options
    )
    return plan_of(spec)


def trained(
    make: Callable[[], TrunkScheduler],
    files: TrunkFiles,
    ended: Callable[[TrunkSpec, EpochReport], None] = lambda *_: None,
    at_once: int = 16,
) -> float:
    """Train all trunks; return the seconds of the scheduler, proposals included.

    Args:
        ended: is told of each epoch.
    """
    watch = Stopwatch()
    with watch.running():
        scheduler = make()
    running: list[tuple[TrunkSpec, int]] = []
    while True:
        while len(running) < at_once:
            with watch.running():
                trunk = next_trunk(scheduler)
                done = 0 if trunk is None else scheduler.epochs_reported(trunk)
            if trunk is None:
                break
            running.append((trunk, done))
        if not running:
            break
        trunk, done = running.pop(0)
        report = report_of(scheduler.plan, trunk, done + 1)
        files.reports.setdefault(trunk.key, []).append(report)
        ended(trunk, report)
        with watch.running():
            goes_on = scheduler.report(trunk, report)
        if goes_on:
            running.append((trunk, done + 1))
    with watch.running():
        assert scheduler.is_over and scheduler.survivors()
    return watch.seconds


def trunks(size: int, root: Path, *, asked: bool, wide: bool = False) -> Measured:
    asking, files = Stopwatch(), TrunkFiles()
    if asked:
        trunk_scheduler.propose = asking.timed(trunk_scheduler.propose)
    else:
        propose_plainly()
    plan = trunk_plan(size, wide=wide)
    seconds = trained(lambda: TrunkScheduler(plan, Store(root), Events()), files)
    return Measured(plan.trunks, asking.seconds if asked else seconds, files_size(root))


def propose_plainly() -> None:
    """Propose without a search, which takes longer than all else."""
    trunk_scheduler.propose = lambda search, point, *_, sample, **__: replace(
        search.middle, hyper=replace(HYPER, lr=1e-3 * (1 + sample / 1000))
    )


def budgeted(size: int, root: Path) -> Measured:
    """Trunks within a budget that is twice what they take, on a clock that their epochs turn."""
    files, plan = TrunkFiles(), trunk_plan(size, wide=True)
    propose_plainly()
    durations, spent_s = Durations(plan), 0.0
    whole_s = forecast(plan, durations).total_s

    def left() -> Left:
        return Left(device_s=2 * whole_s - spent_s)

    def ended(trunk: TrunkSpec, report: EpochReport) -> None:
        nonlocal spent_s
        spent_s += durations.epoch_s(point_of(trunk), report.epoch)

    def make() -> TrunkScheduler:
        budget = Budget(plan, durations, left, Shares(trunks={}, cells={}, trunks_at_a_time=16))
        return BudgetedTrunks(plan, Store(root), Events(), budget)

    return Measured(plan.trunks, trained(make, files, ended))


def resume(size: int, root: Path) -> Measured:
    files, plan = TrunkFiles(), trunk_plan(size, wide=True)
    propose_plainly()
    trained(lambda: TrunkScheduler(plan, Store(root), Events()), files)
    watch = Stopwatch()
    with watch.running():
        assert TrunkScheduler(plan, Store(root), Events()).is_over
    return Measured(plan.trunks, watch.seconds)


# --- cells --------------------------------------------------------------------------------------


def cells_and_rows(size: int) -> tuple[Plan, list[CellEnded]]:
    """A sweep of so many cells: more variants and resolutions the larger it is."""
    variants = VARIANTS[: min(len(VARIANTS), max(1, size // 50))]
    a_side = math.ceil(math.sqrt(size / len(variants)))
    resolutions = tuple(64 + 8 * i for i in range(a_side))
    options = {"epochs": 9, "grace_epochs": 1, "reduction": 3, "test_crop_pct": (1.0,)}
    spec = spec_with(
        variants=variants, train_res=resolutions, test_res=resolutions, arms=ARMS, **options
    )
    plan, rng, ended = plan_of(spec, val=VAL), np.random.default_rng(0), list[CellEnded]()
    for point in plan.points:
        trunk = plan.trunk(point, HYPER)
        for res in resolutions:
            cell = plan.cell(trunk, 9, res, 1.0)
            if len(ended) < size:
                ended.append(CellEnded(cell=cell, rows=tuple(rows_of(plan, cell, rng))))
    return plan, ended


def rows_of(plan: Plan, cell: Cell, rng: np.random.Generator) -> Iterator[Row]:
    cost = plan.costs[cell.variant, cell.test_res]
    best = 1.15 * cell.trunk.train_res
    share = 0.8 - 0.1 * math.log2(cell.test_res / best) ** 2 + 0.01 * math.log2(cost.gmacs)
    for arm in ARMS:
        hits = int(rng.binomial(VAL, min(0.99, max(0.05, share + 0.01 * rank(arm)))))
        yield a_row(
            hits, VAL, variant=cell.variant, train_res=cell.trunk.train_res, test_res=cell.test_res,
            arm=arm, trunk=cell.trunk.key, cell=cell.key, trunk_epochs=9, gmacs=cost.gmacs,
            params_m=cost.params_m, memory_mb=cost.memory_mb, seconds=1.0 + rank(arm),
            balanced_accuracy=hits / VAL, macro_f1=hits / VAL, crossfit_top1=hits / VAL,
            crossfit_balanced_accuracy=hits / VAL, crossfit_macro_f1=hits / VAL,
        )  # fmt: skip


class OneByOne:
    """Stands for the scheduler of trunks: one point after the other is settled, by one trunk."""

    def __init__(self, plan: Plan):
        self.plan, self.settled = plan, dict[Point, None]()

    def survivors_of(self, point: Point) -> list[TrunkSpec]:
        return [self.plan.trunk(point, HYPER)]

    def leaves_room_for(self, cell: Cell) -> bool:
        return True


def cells(size: int, root: Path) -> Measured:
    settled_cells.check_trunks = lambda *_: None  # type: ignore[assignment]
    settled_cells.write_untouched = lambda *_: None  # type: ignore[assignment]
    plan, _ = cells_and_rows(size)
    watch, store, trunks, made = Stopwatch(), Store(root), OneByOne(plan), 0
    score = Score(split="val", n=VAL, hits1=50, hits5=90)
    with watch.running():
        scheduler = CellScheduler(plan, None, store, Events())
        settled = SettledCells(trunks, scheduler, store)  # type: ignore[arg-type]
        for point in plan.points:
            trunks.settled[point] = None
            while (cell := settled.next()) is not None:
                results = [ArmResult(arm=a, score=score, seconds=1.0) for a in cell.spec.arms]
                scheduler.take(cell.key, results)
                made += 1
        settled.plan_all()
        assert settled.is_over and len(scheduler.rows) > made
    return Measured(made, watch.seconds)


def board(size: int, root: Path, *, resumed: bool = False) -> Measured:
    plan, ended = cells_and_rows(size)
    watch, now, sizes = Stopwatch(), 0.0, list[int]()
    path = root / "leaderboard.parquet"
    live = LiveBoard(path, clock=lambda: now)
    live.on(SweepBegan(plan=plan))
    live.on(CellsPlanned(cells=tuple(e.cell for e in ended)))
    last = None
    for number, event in enumerate(ended):
        with watch.running():
            if not resumed or number == size - 1:
                now += 1.0
                live.on(CellBegan(cell=event.cell))
            live.on(event)
        if path.exists() and (state := path.stat().st_ino) != last:
            last = state
            sizes.append(path.stat().st_size)
    return Measured(size, watch.seconds, sum(sizes), f"{len(sizes)} writes")


def terminal(size: int, root: Path) -> Measured:
    plan, ended = cells_and_rows(size)
    watch, file = Stopwatch(), io.StringIO()
    shown = Terminal(Console(file=file, force_terminal=False, width=200, highlight=False))
    shown.on(SweepBegan(plan=plan))
    shown.on(CellsPlanned(cells=tuple(e.cell for e in ended)))
    with watch.running():
        for event in ended:
            shown.on(CellBegan(cell=event.cell))
            shown.on(event)
    return Measured(size, watch.seconds, len(file.getvalue()))


def choose(size: int, root: Path, *, val: int = VAL, metric: Metric = "top1") -> Measured:
    plan, ended = cells_and_rows(size)
    rng, store = np.random.default_rng(0), Store(root)
    labels = torch.tensor(rng.integers(0, len(plan.classes), val))
    rows = [replace(row, n=val) for event in ended for row in event.rows]
    of_cell: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_cell[row.cell].append(row)
    for key, own in of_cell.items():
        of_arms = {}
        for row in own:
            right = torch.tensor(rng.permutation(val) < row.hits1)
            of_arms[row.arm] = torch.where(right, labels, (labels + 1) % len(plan.classes))
        write_predictions(store.cell(key) / PREDICTIONS, labels, of_arms)
    watch = Stopwatch()
    with watch.running():
        choose_from_store(rows, plan.spec.serving, store, metric)
    return Measured(size, watch.seconds)


def report(size: int, root: Path) -> Measured:
    plan, ended = cells_and_rows(size)
    history = History()
    for event in ended:
        history.on(event)
    rows = [row for event in ended for row in event.rows]
    trunks = {e.cell.trunk.key: e.cell.trunk for e in ended}
    for trunk in trunks.values():
        reports = tuple(report_of(plan, trunk, epoch) for epoch in range(1, 10))
        history.trunks[trunk.key] = TrunkEnded(
            trunk=trunk, status=TrunkStatus.FINISHED, reports=reports
        )
    chosen = max(rows, key=lambda r: (r.top1, -r.gmacs))
    others = [row for row in rows if row is not chosen]
    test = [replace(chosen, split="test", n=40, top1=0.8), replace(chosen, split="test", n=40,
            arm="none", top1=0.7)]  # fmt: skip
    outcome = outcome_of([chosen, *others, *test])
    watch = Stopwatch()
    with watch.running():
        files = write_evidence(root, plan, outcome, history, a_record())
    pictures = max(files, key=lambda file: file.stat().st_size)
    note = f"{pictures.name} {pictures.stat().st_size / 1e6:.1f} MB"
    return Measured(size, watch.seconds, (root / "report.html").stat().st_size, note)


PARTS: dict[str, Callable[[int, Path], Measured]] = {
    "proposals": lambda n, root: trunks(n, root, asked=True),
    "trunks": lambda n, root: trunks(n, root, asked=False),
    "trunks wide": lambda n, root: trunks(n, root, asked=False, wide=True),
    "budgeted": budgeted,
    "resume": resume,
    "cells": cells,
    "board": board,
    "board resumed": lambda n, root: board(n, root, resumed=True),
    "terminal": terminal,
    "choose": choose,
    "choose large": lambda n, root: choose(n, root, val=LARGE_VAL),
    "choose macro-F1": lambda n, root: choose(n, root, val=LARGE_VAL, metric="macro_f1"),
    "report": report,
}
