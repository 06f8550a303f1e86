"""The parts that benchmarks/scale.py measures with others in them: MLflow, stores, Ray Tune."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.driver_parts import VAL, Measured, Stopwatch, cells_and_rows
from sweeps.events.event_types import CellBegan, CellEnded, SweepBegan, TrunkEnded
from sweeps.events.live_board import LiveBoard
from sweeps.output.location import BOARD
from sweeps.planning.plan import Plan
from tests.fake_training import report_of
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import PREDICTIONS, ArmResult, write_predictions
from trainables.fixres.reuse.kept_arms import AdaptedArm, write_arms
from trainables.storage.artifact_store import Store
from trainables.storage.fenced_log import FencedLog, fenced_log
from trainables.storage.files import Place, write_json
from trainables.training.trunk import TrunkSpec, TrunkStatus

LINE = {"event": "rung", "trunk": "6c9bb8291c9f6dd5", "epoch": 4, "top1": 0.8125, "goes_on": True}


class Counting:
    """MLflow's client, which counts what it is asked."""

    def __init__(self, client: Any):
        self._client, self.requests = client, 0

    def __getattr__(self, name: str) -> Any:
        self.requests += 1
        return getattr(self._client, name)


def mlflow(size: int, root: Path) -> Measured:
    from sweeps.tracking.access.preflight import Connection, connect
    from sweeps.tracking.tracker import MlflowTracker

    plan, ended = cells_and_rows(size)
    labels, store = torch.zeros(VAL, dtype=torch.int64), Store(root)
    for event in ended:
        write_predictions(store.cell(event.cell.key) / PREDICTIONS, labels, {"none": labels})
    found = connect(f"sqlite:///{root}/mlflow.db", "scale", "--tracking-uri", print)
    client: Any = Counting(found.client)
    connection = Connection(uri=found.uri, client=client, experiment_id=found.experiment_id)
    watch = Stopwatch()
    with watch.running():
        tracker = MlflowTracker(connection, "s", "a sweep", store, print)
        tracker.on(SweepBegan(plan=plan))
        for trunk in {e.cell.trunk.key: e.cell.trunk for e in ended}.values():
            tracker.on(TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=()))
        for event in ended:
            tracker.on(replace(event, rows=event.rows[:1]))  # the arm that leaves no model
        tracker.flush()
        before = client.requests
        tracker.close("FINISHED")
    note = f"{before / size:.1f} requests a cell, {client.requests - before} at the end"
    return Measured(size, watch.seconds, note=note)


def journal(size: int, root: Path) -> Measured:
    watch, path = Stopwatch(), root / "journal.jsonl"
    with watch.running():
        log = fenced_log(path)
        for number in range(size):
            log.append(LINE | {"epoch": number})
    return Measured(size, watch.seconds, path.stat().st_size)


def journal_remote(size: int, root: Path) -> Measured:
    from benchmarks.journal import metered
    from trainables.storage.object_store import remote_path

    watch = Stopwatch()
    with metered() as (uri, meter):
        path: Place = remote_path(uri) / "journal.jsonl"
        meter.reset()
        with watch.running():
            log = fenced_log(path)
            for number in range(size):
                log.append(LINE | {"epoch": number})
        note = f"{meter.requests / size:.2f} requests a line"
        return Measured(size, watch.seconds, meter.sent, note)


def store_remote(size: int, root: Path) -> Measured:
    """Results of cells and of their trunks, the journal's lines, and the board, a cell in 30 s."""
    from benchmarks.journal import metered
    from trainables.storage.object_store import remote_path

    plan, ended = cells_and_rows(size)
    watch, now = Stopwatch(), 0.0
    with metered() as (uri, meter):
        store: Store = Store(remote_path(uri) / "store")
        live = LiveBoard(root / BOARD, remote_path(uri) / BOARD, clock=lambda: now)
        with watch.running():
            log, trained = fenced_log(store.journal), set[str]()
            meter.reset()
            for event in ended:
                trunk = event.cell.trunk
                if trunk.key not in trained:
                    trained.add(trunk.key)
                    send_trunk(store, log, plan, trunk)
                write_arms(store, event.cell.spec, arms_of(event))
                now += 30.0
                live.on(CellBegan(cell=event.cell))
                live.on(event)
            with live.completed():
                pass
        sent, requests = meter.sent, meter.requests
    return Measured(size, watch.seconds, sent, f"{requests / size:.2f} requests a cell")


def send_trunk(store: Store, log: FencedLog, plan: Plan, trunk: TrunkSpec) -> None:
    reports = [report_of(plan, trunk, epoch) for epoch in range(1, 10)]
    for number in range(4):  # asked, two rungs, ended
        log.append(LINE | {"epoch": number})
    write_json(store.trunk(trunk.key) / "spec.json", trunk)
    result = {"why": TrunkStatus.FINISHED, "reports": reports}
    write_json(store.trunk(trunk.key) / "result.json", result)


def arms_of(event: CellEnded) -> list[AdaptedArm]:
    score, said = Score(split="val", n=VAL, hits1=50, hits5=90), torch.zeros(VAL).long()
    return [
        AdaptedArm(
            result=ArmResult(arm=row.arm, score=score, seconds=row.seconds),
            labels=said,
            predicted=said,
            crossfit=None,
        )
        for row in event.rows
    ]


def tune(size: int, root: Path) -> Measured:
    """Trials that do nothing, in processes that are reused: what Ray Tune takes for each."""
    from benchmarks.orchestrator import alone, ours

    watch = Stopwatch()
    with alone(seconds=0.0) as cores:
        ours(cores, cores)
        began = time.perf_counter()
        with watch.running():
            ours(size, cores)
        wall_s = time.perf_counter() - began
    return Measured(size, watch.seconds, note=f"{1e3 * wall_s / size:.1f} ms of wall time")


PARTS: dict[str, Callable[[int, Path], Measured]] = {
    "mlflow": mlflow,
    "journal": journal,
    "journal remote": journal_remote,
    "store remote": store_remote,
    "tune": tune,
}
