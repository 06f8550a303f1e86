"""A whole sweep without nets: its events and store, and a look at what MLflow holds of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mlflow.entities import DatasetInput, LoggedModel, Run
from mlflow.tracking import MlflowClient

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    Event,
    SweepBegan,
    TrunkEnded,
)
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.tracking.access.preflight import Connection, connect
from sweeps.tracking.delivery.shortfall import shortfall_path
from sweeps.tracking.payloads import Results
from sweeps.tracking.runs import SWEEP_KEY, RunStore, cell_key, trunk_key
from sweeps.tracking.tracker import MlflowTracker
from tests.factories import a_row, plan_of, spec_with
from tests.fake_training import phase
from trainables.fixres.cell import PREDICTIONS, delta_path, write_predictions
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_tensors

EXPERIMENT = "fixres-sweeps"
PLAN = plan_of(
    spec_with(
        train_res=(64, 96),
        test_res=(64, 96),
        test_crop_pct=(1.0,),
        samples=2,
        epochs=2,
        grace_epochs=1,
        reduction=2,
    )
)
HELD_OUT_ROWS = [
    a_row(hits, 40, split=split, arm=arm)
    for split, arm, hits in (
        ("test", "fix", 30), ("test", "none", 24), ("my set (v2)", "fix", 10)
    )
]  # fmt: skip


@dataclass(frozen=True)
class RecordedSweep:
    """The events of a sweep, in order, its store, and its rows on val."""

    events: list[Event]
    store: Store[Path]
    rows: list[Row]

    @property
    def ended_trunks(self) -> list[TrunkEnded]:
        return [event for event in self.events if isinstance(event, TrunkEnded)]

    @property
    def ended_cells(self) -> list[CellEnded]:
        return [event for event in self.events if isinstance(event, CellEnded)]


def record_sweep(root: Path) -> RecordedSweep:
    """Run the trunks of PLAN without nets, and make up the rows of their cells."""
    scheduler, store, _, events = phase(PLAN, root)
    trunks = scheduler.survivors()
    cells = [PLAN.cell(t, t.recipe.epochs, res, 1.0) for t in trunks for res in (64, 96)]
    all_events: list[Event] = [SweepBegan(plan=PLAN), *events, CellsPlanned(cells=tuple(cells))]
    all_rows: list[Row] = []
    for i, cell in enumerate(cells):
        rows = tuple(
            a_row(
                hits, arm=arm, cell=cell.key, trunk=cell.trunk.key,
                train_res=cell.trunk.train_res, test_res=cell.test_res,
            )
            for arm, hits in (("none", 20 + i), ("fix", 30 + i))
        )  # fmt: skip
        write_tensors(delta_path(store, cell.key, "fix"), {"w": torch.zeros(2)})
        labels = torch.zeros(50, dtype=torch.int64)
        predictions = {"none": labels, "fix": labels}
        write_predictions(store.cell(cell.key) / PREDICTIONS, labels, predictions)
        all_events.append(CellBegan(cell=cell))
        all_events.append(CellEnded(cell=cell, rows=rows))
        all_rows += rows
    return RecordedSweep(all_events, store, all_rows)


class TrackedSweep:
    """A recorded sweep under an id of its own in MLflow, and what MLflow holds of it."""

    def __init__(
        self,
        folder: Path,
        client: MlflowClient,
        recorded: RecordedSweep,
        sweep_id: str,
        uri: str | None = None,
    ):
        self.folder, self.client, self.id = folder, client, sweep_id
        self.recorded, self.events = recorded, recorded.events
        self.uri = uri or f"sqlite:///{folder}/mlflow.db"

    def tracker(
        self,
        notify: Callable[[str], None] = lambda _: None,
        client: MlflowClient | None = None,
        experiment: str = EXPERIMENT,
    ) -> MlflowTracker:
        """A tracker as a new process would have it; with this client if one is given."""
        connection = connect(self.uri, experiment, "--tracking-uri")
        if client is not None:
            connection = Connection(
                uri=self.uri, client=client, experiment_id=connection.experiment_id
            )
        return MlflowTracker(connection, self.id, "a sweep", self.recorded.store, notify)

    @property
    def lacks_something(self) -> bool:
        """Whether the store says that MLflow lacks something."""
        return shortfall_path(self.recorded.store).exists()

    def track(self, events: Iterable[Event], status: str = "FINISHED") -> None:
        """Write these events with a tracker of their own."""
        tracker = self.tracker()
        for event in events:
            tracker.on(event)
        tracker.close(status)

    def finish(self, tracker: MlflowTracker) -> None:
        """End a tracker as a sweep does that came to its choice."""
        choice = Choice(row=self.recorded.rows[-1], reason="It is the best.", optimism=0.01)
        for name, target in (("spec.json", ""), ("heatmap.png", "figures")):
            (self.folder / name).write_text("{}")
            tracker.attach([self.folder / name], target)
        tracker.write_results(Results(choice=choice, rows=[*self.recorded.rows, *HELD_OUT_ROWS]))
        tracker.begin_closing()
        assert self.lacks_something
        tracker.close("FINISHED")

    @property
    def experiment_id(self) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return str(experiment.experiment_id)

    def runs(self, role: str = "") -> list[Run]:
        """All runs, or those of a role."""
        runs = self.client.search_runs(
            [self.experiment_id], f"tags.sweep = '{self.id}'", max_results=1000
        )
        return [run for run in runs if role in ("", run.data.tags["role"])]

    def run(self, key: str) -> Run:
        (run,) = [run for run in self.runs() if run.data.tags["key"] == key]
        return run

    def models(self) -> dict[str, LoggedModel]:
        """The logged models, by their runs' keys; no run has two."""
        models = self.client.search_logged_models(
            [self.experiment_id], filter_string=f"tags.sweep = '{self.id}'"
        )
        by_key = {model.tags["key"]: model for model in models}
        assert len(by_key) == len(models)
        return by_key

    def images_of(self, key: str) -> list[DatasetInput]:
        """The images that a run used."""
        inputs = self.run(key).inputs
        return list(inputs.dataset_inputs) if inputs else []

    def sources_of(self, key: str) -> list[str]:
        """The ids of the models that a run used."""
        inputs = self.client.get_run(self.run(key).info.run_id).inputs
        return [model.model_id for model in inputs.model_inputs] if inputs else []

    def files_of(self, model: LoggedModel) -> list[str]:
        return [a.path for a in self.client.list_logged_model_artifacts(model.model_id)]

    def points(self) -> dict[tuple[str, str], list[tuple[int, float]]]:
        """All metric points as (step, value), by run and metric."""
        return {
            (run.data.tags["key"], name): [
                (m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, name)
            ]
            for run in self.runs()
            for name in run.data.metrics
        }

    def check_whole(self) -> None:
        """Check that each trunk and cell has one run, which has ended, and each point is once."""
        assert not self.lacks_something
        trunks, cells = self.recorded.ended_trunks, self.recorded.ended_cells
        keys = [
            SWEEP_KEY,
            *(trunk_key(e.trunk.key) for e in trunks),
            *(cell_key(e.cell.key) for e in cells),
        ]
        runs = self.runs()
        assert Counter(r.data.tags["key"] for r in runs) == Counter(keys)
        assert {r.info.status for r in runs} == {"FINISHED"}
        points = self.points()
        for (key, name), values in points.items():
            steps = [step for step, _ in values]
            assert len(steps) == len(set(steps)), (key, name, values)
        for event in trunks:
            own = points[trunk_key(event.trunk.key), "val/top1"]
            expected = {r.epoch: r.best_val.top1 for r in event.reports if r.best_val}
            assert len(own) == len(expected) and dict(own) == pytest.approx(expected)
            lrs = points[trunk_key(event.trunk.key), "lr"]
            assert [step for step, _ in sorted(lrs)] == [r.epoch for r in event.reports]


def run_store(sweep: TrackedSweep) -> RunStore:
    """The sweep's runs as a new process would find them."""
    return RunStore(sweep.client, sweep.experiment_id, sweep.id)


def started_runs(sweep: TrackedSweep) -> RunStore:
    """The sweep's runs, of which the parent exists."""
    runs = run_store(sweep)
    runs.ensure(SWEEP_KEY, "a sweep", {}, {"role": "sweep"}, 1_700_000_000_000)
    return runs
