"""MLflow, written by the driver alone: a parent run, a child run for each trunk and each cell.

    parent   heat map, leaderboard, spec, choice, the registered model
    trunk    metrics by epoch; the weights of those that cells are made from
    cell     the three axes as its only parameters, val accuracy, what each arm changed

Parameters are what a person compares: the UI offers them in alphabetical order, the first three
unasked. All else is a tag. Everything is written so that writing it again changes nothing: a
resumed sweep finds its runs by their tags and goes on in them.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.choice import Choice
from sweeps.events import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.leaderboard import Row, table
from sweeps.plan import Plan
from trainables.arms import ARMS
from trainables.cell import CellSpec, delta_path
from trainables.errors import UserError
from trainables.store import Store
from trainables.trunk import EpochReport, TrunkSpec

START_RETRIES, RETRIES = "1", "6"  # of the HTTP client: short at the start, patient later


def default_uri(out: Path) -> str:
    """MLFLOW_TRACKING_URI, else a sqlite file in ``out``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out}/mlflow.db"


class Tracking:
    """Watches a sweep and writes it down."""

    def __init__(self, uri: str, experiment: str, sweep_id: str, name: str, store: Store):
        """Raises:
        UserError: the tracking store does not answer.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = START_RETRIES
        self.uri, self.sweep_id, self._name, self._store = uri, sweep_id, name, store
        for logger in ("mlflow", "alembic"):  # they tell of every table that they create
            logging.getLogger(logger).setLevel(logging.ERROR)
        self.client = MlflowClient(tracking_uri=uri)
        try:
            self.experiment_id = self._experiment(experiment)
            self._runs = self._known_runs()
        except MlflowException as error:
            told = str(error).replace(uri.rstrip("/"), _without_secret(uri).rstrip("/"))
            reason = told.splitlines()[0][:200]
            raise UserError(
                f"--tracking-uri {_without_secret(uri)} cannot be used ({reason}): start the "
                "server, or leave the option out for a sqlite file in OUT."
            ) from None
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = RETRIES
        self.parent_id = self._note = ""

    # --- runs -------------------------------------------------------------------------------

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
        return str(self.client.create_experiment(name, artifact_location=location))

    def _known_runs(self) -> dict[str, Run]:
        """This sweep's runs by their key, of this process or an earlier one."""
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.sweep = '{self.sweep_id}'", page_token=token
            )
            runs |= {run.data.tags["key"]: run for run in page}
            token = page.token
            if not token:
                return runs

    def _ensure(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> tuple[str, bool]:
        """The run's id, and whether it is over already. A run found half-way goes on."""
        run = self._runs.get(key)
        if run is not None:
            over = run.info.status == "FINISHED"
            if not over and run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
            if params.keys() - run.data.params.keys():  # its maker was killed between the two
                self._log_params(run.info.run_id, params)
            return run.info.run_id, over
        system = {"mlflow.runName": name, "mlflow.source.name": "sweeps/fixres_grid.py"}
        if self.parent_id:
            system["mlflow.parentRunId"] = self.parent_id
        own = {"sweep": self.sweep_id, "key": key, **tags}
        run = self.client.create_run(
            self.experiment_id, tags=system | {k: str(v) for k, v in own.items()}
        )
        self._log_params(run.info.run_id, params)
        self._runs[key] = self.client.get_run(run.info.run_id)
        return run.info.run_id, False

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])

    def _close(self, key: str, status: str = "FINISHED") -> None:
        run_id = self._runs[key].info.run_id
        self.client.set_terminated(run_id, status)
        self._runs[key] = self.client.get_run(run_id)

    def _tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])

    # --- events -----------------------------------------------------------------------------

    def on(self, event: Event) -> None:
        match event:
            case SweepBegan(plan=plan):
                self._begin(plan)
            case TrunkBegan(trunk=trunk):
                self._trunk(trunk)
            case EpochEnded(trunk=trunk, report=report):
                run_id, over = self._trunk(trunk)
                if not over:
                    self.client.log_batch(run_id, metrics=_epoch_metrics(report))
            case TrunkEnded(trunk=trunk, why=why, reports=reports):
                self._trunk_ended(trunk, why, reports)
            case CellsPlanned(cells=cells):
                for trunk in {trunk.key: trunk for _, trunk in cells}.values():
                    self._checkpoint(trunk)
            case CellBegan(cell=cell, trunk=trunk):
                self._cell(cell, trunk)
            case CellEnded(cell=cell, trunk=trunk, rows=rows):
                self._cell_ended(cell, trunk, rows)

    def _begin(self, plan: Plan) -> None:
        grid = plan.grid
        self._note = _note(plan)
        params = {
            "variants": " ".join(plan.spec.grid.variants),
            "train_res": " ".join(map(str, grid.train_res)),
            "test_res": " ".join(map(str, grid.test_res)),
        }
        tags = {
            "role": "sweep",
            "images": plan.images,
            "seed": plan.spec.run.seed,
            "mlflow.note.content": self._note,
        } | {f"n_{split}": n for split, n in plan.counts.items()}
        self.parent_id, over = self._ensure("sweep", self._name, params, tags)
        if over:
            self.client.update_run(self.parent_id, status="RUNNING")

    def _trunk(self, trunk: TrunkSpec) -> tuple[str, bool]:
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
        return self._ensure(f"trunk {trunk.key}", name, params, tags)

    def _trunk_ended(self, trunk: TrunkSpec, why: str, reports: Sequence[EpochReport]) -> None:
        run_id, over = self._trunk(trunk)
        if over:
            return
        metrics = [m for report in reports for m in _epoch_metrics(report)]
        self.client.log_batch(run_id, metrics=metrics)
        self._tags(run_id, {"ended": why, "epochs_trained": len(reports)})
        self._close(f"trunk {trunk.key}", "FAILED" if why == "failed" else "FINISHED")

    def _checkpoint(self, trunk: TrunkSpec) -> None:
        """The weights of a trunk that cells are made from."""
        run = self._runs[f"trunk {trunk.key}"]
        if "checkpoint" not in run.data.tags:
            path = self._store.trunk(trunk.key) / "trunk.safetensors"
            self.client.log_artifact(run.info.run_id, str(path), "checkpoint")
            self._tags(run.info.run_id, {"checkpoint": "checkpoint/trunk.safetensors"})
            self._runs[f"trunk {trunk.key}"] = self.client.get_run(run.info.run_id)

    def _cell(self, cell: CellSpec, trunk: TrunkSpec) -> tuple[str, bool]:
        params = {
            "variant": trunk.variant,
            "train_res": trunk.train_res,
            "test_res": cell.test_res,
        }
        tags = {
            "role": "cell",
            "trunk": trunk.key,
            "trunk_run": self._runs[f"trunk {trunk.key}"].info.run_id,
        }
        name = f"{trunk.variant}-tr{trunk.train_res}-te{cell.test_res}"
        return self._ensure(f"cell {cell.key}", name, params, tags)

    def _cell_ended(self, cell: CellSpec, trunk: TrunkSpec, rows: Sequence[Row]) -> None:
        run_id, over = self._cell(cell, trunk)
        if over:
            return
        if not rows:
            self._close(f"cell {cell.key}", "FAILED")
            return
        at = self._runs[f"cell {cell.key}"].info.start_time
        self.client.log_batch(run_id, metrics=_cell_metrics(rows, at))
        best = max(rows, key=lambda r: r.hits1)
        self._tags(run_id, {"n_val": best.n, "best_arm": best.arm} | _head_tags(rows))
        for row in rows:
            if ARMS[row.arm].changes:
                delta = delta_path(self._store, cell.key, row.arm)
                self.client.log_artifact(run_id, str(delta), "checkpoint")
        self._close(f"cell {cell.key}")

    # --- the end ----------------------------------------------------------------------------

    def finish(
        self,
        choice: Choice,
        rows: Sequence[Row],
        picture: Figure,
        files: Sequence[Path],
    ) -> None:
        """The parent's results; then every run of this sweep is over."""
        row, at = choice.row, self._runs["sweep"].info.start_time
        values = {
            "val/top1": row.top1,
            "val/top5": row.top5,
            "work/params_m": row.params_m,
            "work/gmacs": row.gmacs,
            "val/optimism": choice.optimism,
        }
        if row.latency_ms is not None:
            values["work/latency_ms"] = row.latency_ms
        for unseen in rows:
            if unseen.split != "val":
                role = "" if unseen.arm == row.arm else "_untuned"
                values |= {
                    f"{_metric_name(unseen.split)}/top1{role}": unseen.top1,
                    f"{_metric_name(unseen.split)}/top5{role}": unseen.top5,
                }
        self.client.log_batch(
            self.parent_id, metrics=[Metric(k, v, at, 0) for k, v in values.items()]
        )
        tags = {"chosen": f"{row.place} px, arm {row.arm}", "reason": choice.reason}
        tags["mlflow.note.content"] = f"{self._compare_link()}\n\n{choice.reason}\n\n{self._note}"
        self._tags(self.parent_id, tags)
        for path in files:
            self.client.log_artifact(self.parent_id, str(path))
        self.client.log_figure(self.parent_id, picture, "heatmap.png")
        columns = table(rows).select(
            ["variant", "train_res", "test_res", "arm", "split", "n", "top1", "top5", "gmacs"]
        )
        known = {a.path for a in self.client.list_artifacts(self.parent_id)}
        if "leaderboard.json" not in known:  # MLflow would append the rows to it
            self.client.log_table(self.parent_id, columns.to_pydict(), "leaderboard.json")

    def _compare_link(self) -> str:
        """Markdown: the UI's compare view of all cells, whatever the UI's address."""
        cells = [run.info.run_id for key, run in self._runs.items() if key.startswith("cell ")]
        lists = {"runs": cells, "experiments": [self.experiment_id]}
        query = {name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()}
        return f"[Compare the {len(cells)} cells](#/compare-runs?{urlencode(query)})"

    def close(self, status: str) -> None:
        """End every run that is still open, children first: none is left RUNNING."""
        for key in sorted(self._runs, key=lambda k: k == "sweep"):
            run = self.client.get_run(self._runs[key].info.run_id)
            if run.info.status == "RUNNING":
                self._close(key, status)

    def ui_command(self) -> str:
        """What opens the UI, or where it is."""
        path = (
            f"/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"
            f"&searchFilter=tags.sweep%20%3D%20%27{self.sweep_id}%27"
        )
        if self.uri.startswith("http"):
            return f"{_without_secret(self.uri).rstrip('/')}{path}"
        return (
            f"mlflow ui --backend-store-uri {_without_secret(self.uri)} --host 127.0.0.1 "
            f"--port 5000\n  then http://127.0.0.1:5000{path}"
        )


def _epoch_metrics(report: EpochReport) -> list[Metric]:
    values = {"lr": report.lr, "seconds": report.seconds}
    if report.train_top1 is not None:
        values["train/top1"] = report.train_top1
    if report.loss is not None:
        values["train/loss"] = report.loss
    if report.best_val is not None:
        values["val/top1"] = report.best_val.top1
        values |= {f"val/top1_at_{res}": s.top1 for res, s in report.val.items()}
    return [Metric(k, v, report.at, report.epoch) for k, v in values.items()]


def _metric_name(split: str) -> str:
    """A set's name in the letters that MLflow allows."""
    return re.sub(r"[^\w .-]", "_", split)


def _head_tags(rows: Sequence[Row]) -> dict[str, Any]:
    """How each arm's classifier was fitted."""
    return {
        f"head_{r.arm}": f"{r.head_optimizer}, lr {r.head_lr:g}, smoothing {r.head_smoothing:g}, "
        f"weight decay {r.head_weight_decay:g}, {r.head_epochs} epochs; of {r.head_tried} tried"
        for r in rows
        if r.head_tried
    }


def _cell_metrics(rows: Sequence[Row], at: int) -> list[Metric]:
    best = max(rows, key=lambda r: r.hits1)
    values = {"val/top1": best.top1, "val/top5": best.top5}
    values |= {f"val/top1_{r.arm}": r.top1 for r in rows}
    values |= {"work/gmacs": best.gmacs, "work/params_m": best.params_m}
    values["work/seconds"] = sum(r.seconds for r in rows)
    return [Metric(k, v, at, 0) for k, v in values.items()]


def _note(plan: Plan) -> str:
    grid = plan.grid
    return (
        f"FixRes sweep over {', '.join(plan.spec.grid.variants)}: trained at "
        f"{', '.join(map(str, grid.train_res))} px, tested at "
        f"{', '.join(map(str, grid.test_res))} px. {plan.trunks} trunks, {plan.cells} cells; "
        f"{', '.join(f'{n} {split}' for split, n in plan.counts.items())} images of "
        f"{len(plan.classes)} classes. Accuracies of cells are on val (n = {plan.counts['val']})."
    )


def _without_secret(uri: str) -> str:
    """A URI without user, password and query."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
