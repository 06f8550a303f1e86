"""What MLflow is told of a sweep: a parent run, a child run for each trunk and each cell.

    parent   figures, report, leaderboard, spec, choice; the machine; the registered model
    trunk    metrics by epoch; the weights of those that cells are made from, as a logged model
    cell     the three axes as its only parameters, val accuracy, its rows and predictions; what
             each arm changed, as a logged model made from the trunk's

Parameters are what a person compares: the UI offers them in alphabetical order, the first three
unasked. All else is a tag. The driver is the only writer, and it never waits: what is to be told
goes through an outbox, which a server that is away only delays. What a driver that was killed has
not told, the next one tells: all events come again, and writing again changes nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Dataset, Metric
from mlflow.exceptions import MlflowException

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.planning.plan import Plan
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.outbox import Job, Outbox
from sweeps.tracking.payloads import (
    EXPERIMENT_NOTE,
    ROWS,
    cell_metrics,
    epoch_metrics,
    head_tags,
    parent_values,
    sweep_note,
    trunk_tags,
)
from sweeps.tracking.runs import RunStore, dataset, is_transient, quiet_client
from sweeps.tracking.system_metrics import SystemMetricsSampler
from sweeps.tracking.ui_links import compare_link, sweep_view, ui_command, without_credentials
from trainables.errors import SweepError, UserError
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import PREDICTIONS, CellSpec, delta_path
from trainables.storage.artifact_store import Store
from trainables.storage.files import local_copy
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox tries again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PATIENCE_S = 600.0  # with a server that is away when the sweep is done


def default_uri(out: Path) -> str:
    """MLFLOW_TRACKING_URI, else a sqlite file in ``out``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out}/mlflow.db"


class MlflowTracker:
    """Watches a sweep and has it written down."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        sweep_id: str,
        name: str,
        store: Store,
        tell: Callable[[str], None] = lambda _: None,
    ):
        """
        Args:
            tell: told when the tracking server goes away, and when it is back.

        Raises:
            UserError: the tracking store does not answer.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.update(ENVIRONMENT)
        self.uri, self.sweep_id, self._name, self._store = uri, sweep_id, name, store
        self.client = quiet_client(uri)
        try:
            self.experiment_id = self._experiment(experiment)
            self.runs = RunStore(self.client, self.experiment_id, sweep_id)
        except MlflowException as error:
            told = str(error).replace(uri.rstrip("/"), without_credentials(uri).rstrip("/"))
            reason = told.splitlines()[0][:200]
            raise UserError(
                f"--tracking-uri {without_credentials(uri)} cannot be used ({reason}): start the "
                "server, or leave the option out for a sqlite file in OUT."
            ) from None
        self._checkpoints = LoggedModels(self.runs)
        self._outbox = Outbox(
            is_transient=is_transient,
            recover=self.runs.reload,
            on_idle=self.runs.write_all,
            notify=lambda words: tell(f"MLflow {words}"),
        )
        self._machine: SystemMetricsSampler | None = None
        self._note, self._at = "", 0  # when what is being written happened, Unix time, ms
        self._images: dict[str, Dataset] = {}

    @property
    def parent_id(self) -> str:
        return self.runs.id("sweep")

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise UserError(
                    f"--experiment {name} has been deleted in MLflow: restore it, or name another."
                )
            return str(found.experiment_id)
        location = None
        if self.uri.startswith("sqlite:///"):  # else artifacts would land in the working directory
            database = Path(self.uri.removeprefix("sqlite:///")).resolve()
            location = (database.parent / "mlartifacts").as_uri()
        tags = {"mlflow.note.content": EXPERIMENT_NOTE}
        return str(self.client.create_experiment(name, artifact_location=location, tags=tags))

    # --- how it is written ------------------------------------------------------------------

    def on(self, event: Event) -> None:
        at = int(time.time() * 1000)

        def write() -> None:
            self._at = at
            self._write(event)

        self.put(write)

    def put(self, job: Job) -> None:
        """Have something written after all that was told before. It may be done twice."""
        self._outbox.put(job)

    def flush(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until all is written.

        Raises:
            SweepError: the server has been away for ``patience_s``.
        """
        try:
            self._outbox.flush(patience_s)
        except TimeoutError:
            raise SweepError(
                f"MLflow ({without_credentials(self.uri)}) has not answered for "
                f"{patience_s / 60:.0f} minutes: all results are in OUT, and the same command "
                "again writes what MLflow lacks."
            ) from None

    def close(self, status: str, patience_s: float = PATIENCE_S) -> None:
        """End every run that is still open, and write all that is left."""
        if self._machine is not None:
            self._machine.stop()
        self.put(lambda: self.runs.end_all(status))
        try:
            self.flush(patience_s)
        finally:
            self._outbox.stop()

    # --- events -----------------------------------------------------------------------------

    def _write(self, event: Event) -> None:
        match event:
            case SweepBegan(plan=plan):
                self._begin(plan)
            case TrunkBegan(trunk=trunk):
                self._trunk(trunk)
            case EpochEnded(trunk=trunk, report=report):
                if not self._trunk(trunk):
                    self.runs.put_by(_key(trunk), epoch_metrics(report))
            case TrunkEnded(trunk=trunk, why=why, reports=reports):
                self._trunk_ended(trunk, why, reports)
            case CellsPlanned(cells=cells):
                for trunk in {trunk.key: trunk for _, trunk in cells}.values():
                    self._log_trunk(trunk)
            case CellBegan(cell=cell, trunk=trunk):
                self._cell(cell, trunk)
            case CellEnded(cell=cell, trunk=trunk, rows=rows):
                self._cell_ended(cell, trunk, rows)

    def _begin(self, plan: Plan) -> None:
        grid, data = plan.grid, plan.spec.images.data
        self._note = sweep_note(plan)
        params = {
            "variants": " ".join(plan.spec.grid.variants),
            "train_res": " ".join(map(str, grid.train_res)),
            "test_res": " ".join(map(str, grid.test_res)),
        }
        tags = {
            "role": "sweep",
            "images": plan.images_digest,
            "seed": plan.spec.run.seed,
            "mlflow.note.content": self._note,
        } | {f"n_{split}": n for split, n in plan.counts.items()}
        if self.runs.ensure("sweep", self._name, params, tags, self._at):
            self.runs.reopen("sweep")
        source = str(data or plan.name)
        self._images = {
            split: dataset(plan.name, plan.images_digest, split, source, count)
            for split, count in plan.counts.items()
        }
        for split, images in self._images.items():
            self.runs.use("sweep", images, split)
        view = sweep_view(self.sweep_id, self._name)
        self.client.set_experiment_tag(self.experiment_id, *view)
        if self._machine is None:
            self._machine = SystemMetricsSampler(self._take_sample)

    def _take_sample(self, values: Mapping[str, float], at: int) -> None:
        def write() -> None:
            step = (at - self.runs.began("sweep")) // 1000  # seconds: goes on after a restart
            self.runs.put_by("sweep", [Metric(k, v, at, step) for k, v in values.items()])

        self.put(write)

    def _trunk(self, trunk: TrunkSpec) -> bool:
        hyper = trunk.hyper
        params = {
            "variant": trunk.variant,
            "train_res": trunk.train_res,
            "with_lr": hyper.lr,
            "with_weight_decay": hyper.weight_decay,
            "with_label_smoothing": hyper.label_smoothing,
        }
        tags = {"role": "trunk", "weights": trunk.weights.source, "epochs": trunk.recipe.epochs}
        name = f"{trunk.variant}-tr{trunk.train_res}-{trunk.key[:6]}"
        over = self.runs.ensure(_key(trunk), name, params, tags, self._at)
        if not over:
            self.runs.use(_key(trunk), self._images["train"], "train")
        return over

    def _trunk_ended(self, trunk: TrunkSpec, why: str, reports: Sequence[EpochReport]) -> None:
        if self._trunk(trunk):
            return
        self.runs.write(_key(trunk), [m for report in reports for m in epoch_metrics(report)])
        self.runs.tag(_key(trunk), trunk_tags(why, reports))
        self.runs.end(_key(trunk), "FAILED" if why == "failed" else "FINISHED", self._at)

    def _log_trunk(self, trunk: TrunkSpec) -> None:
        """The weights of a trunk that cells are made from."""
        path = self._store.trunk(trunk.key) / "trunk.safetensors"
        reports = recorded_reports(self._store, trunk.key)
        scored = next(report for report in reversed(reports) if report.val)
        self._checkpoints.log(
            _key(trunk),
            f"trunk-{trunk.variant}-tr{trunk.train_res}",
            params={"variant": trunk.variant, "train_res": trunk.train_res},
            files=[path],
            metrics=[
                self._on_val(f"val/top1_at_{res}", score.top1, scored.at, scored.epoch)
                for res, score in scored.val.items()
            ],
            step=scored.epoch,
        )

    def _on_val(self, name: str, value: float, at: int, step: int) -> Metric:
        val = self._images["val"]
        return Metric(name, value, at, step, dataset_name=val.name, dataset_digest=val.digest)

    def _cell(self, cell: CellSpec, trunk: TrunkSpec) -> bool:
        params = {
            "variant": trunk.variant,
            "train_res": trunk.train_res,
            "test_res": cell.test_res,
        }
        tags = {"role": "cell", "trunk": trunk.key, "trunk_run": self.runs.id(_key(trunk))}
        name = f"{trunk.variant}-tr{trunk.train_res}-te{cell.test_res}"
        return self.runs.ensure(f"cell {cell.key}", name, params, tags, self._at)

    def _cell_ended(self, cell: CellSpec, trunk: TrunkSpec, rows: Sequence[Row]) -> None:
        key = f"cell {cell.key}"
        if self._cell(cell, trunk):
            return
        if not rows:
            self.runs.end(key, "FAILED", self._at)
            return
        self.runs.use(key, self._images["val"], "val")
        self.runs.write(key, cell_metrics(rows, self.runs.began(key)))
        best = max(rows, key=lambda r: r.hits1)
        self.runs.tag(key, {"n_val": best.n, "best_arm": best.arm} | head_tags(rows))
        self._log_rows(key, cell, rows)
        self._log_cell(key, cell, trunk, rows)
        self.runs.end(key, at=self._at)

    def _log_rows(self, key: str, cell: CellSpec, rows: Sequence[Row]) -> None:
        """What a choice among cells needs."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ROWS
            leaderboard.write(path, rows)
            with local_copy(self._store.cell(cell.key) / PREDICTIONS) as predictions:
                for one in (path, predictions):
                    self.client.log_artifact(self.runs.id(key), str(one))

    def _log_cell(self, key: str, cell: CellSpec, trunk: TrunkSpec, rows: Sequence[Row]) -> None:
        """What the arms changed of the trunk."""
        changed = [row for row in rows if ARMS[row.arm].changes]
        if not changed:
            return
        at = self.runs.began(key)
        self._checkpoints.log(
            key,
            f"cell-{trunk.variant}-tr{trunk.train_res}-te{cell.test_res}",
            params={
                "variant": trunk.variant, "train_res": trunk.train_res, "test_res": cell.test_res
            },
            files=[delta_path(self._store, cell.key, row.arm) for row in changed],
            metrics=[self._on_val(f"val/top1_{row.arm}", row.top1, at, 0) for row in changed],
            step=0,
            made_from=_key(trunk),
        )  # fmt: skip

    # --- the end ----------------------------------------------------------------------------

    def attach(self, files: Sequence[Path], folder: str = "") -> None:
        """Have files added to the parent's artifacts."""

        def write() -> None:
            for path in files:
                self.client.log_artifact(self.parent_id, str(path), folder or None)

        self.put(write)

    def finish(self, choice: Choice, rows: Sequence[Row]) -> None:
        """Have the parent's results written."""
        self.put(lambda: self._finish(choice, rows))

    def _finish(self, choice: Choice, rows: Sequence[Row]) -> None:
        values = parent_values(choice, rows)
        at = self.runs.began("sweep")
        self.runs.write("sweep", [Metric(k, v, at, 0) for k, v in values.items()])
        tags = {"chosen": f"{choice.row.place} px, arm {choice.row.arm}", "reason": choice.reason}
        link = compare_link(self.runs.ids("cell "), self.experiment_id)
        tags["mlflow.note.content"] = f"{link}\n\n{choice.reason}\n\n{self._note}"
        self.runs.tag("sweep", tags)
        columns = leaderboard.to_table(rows).select(
            ["variant", "train_res", "test_res", "arm", "split", "n", "top1", "top5", "gmacs"]
        )
        known = {a.path for a in self.client.list_artifacts(self.parent_id)}
        if "leaderboard.json" not in known:  # MLflow would append the rows to it
            self.client.log_table(self.parent_id, columns.to_pydict(), "leaderboard.json")

    def keep_only(self, trunks: Collection[str], cells: Collection[str]) -> None:
        """Have the checkpoints of all other trunks and cells deleted, files and all."""
        keys = {*(f"trunk {t}" for t in trunks), *(f"cell {c}" for c in cells), "sweep"}
        self.put(lambda: self._checkpoints.keep_only(keys))

    def ui_command(self) -> str:
        """What opens the UI, or where it is."""
        return ui_command(self.uri, self.experiment_id, self.sweep_id)


def _key(trunk: TrunkSpec) -> str:
    return f"trunk {trunk.key}"
