"""One sweep's runs in MLflow, under keys of our own: "sweep", "trunk <key>", "cell <key>".

Everything is written so that writing it again changes nothing: a run is found again by its tags,
a metric's point by step and time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

FINISHED, RUNNING = "FINISHED", "RUNNING"


def quiet_client(uri: str | None) -> MlflowClient:
    """A client that does not tell of every table that it creates."""
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


class RunStore:
    """What there is of them, and ways to write to them."""

    def __init__(self, client: MlflowClient, experiment_id: str, sweep_id: str):
        self.client, self.experiment_id, self.sweep_id = client, experiment_id, sweep_id
        self._runs: dict[str, Run] = {}
        self._put_by: dict[str, list[Metric]] = {}
        self._used: set[tuple[str, str]] = set()  # by this process: what is noted needs no request
        self.reload()

    def reload(self) -> None:
        """Find this sweep's runs, whichever process made them."""
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.sweep = '{self.sweep_id}'", page_token=token
            )
            self._runs |= {run.data.tags["key"]: run for run in page}
            token = page.token
            if not token:
                return

    @property
    def known(self) -> list[str]:
        return list(self._runs)

    def ids(self, prefix: str) -> list[str]:
        return [run.info.run_id for key, run in self._runs.items() if key.startswith(prefix)]

    def id(self, key: str) -> str:
        return str(self._runs[key].info.run_id)

    def began(self, key: str) -> int:
        """Unix time, ms: a time for what is written once, the same however often."""
        return int(self._runs[key].info.start_time)

    def tags(self, key: str) -> dict[str, str]:
        return dict(self._runs[key].data.tags)

    def ensure(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any], at: int
    ) -> bool:
        """Make the run unless it is there; whether it is over already. One found half-way goes on.

        All runs but "sweep" are its children.

        Args:
            at: Unix time, ms, when it began, if it did so only now.
        """
        run = self._runs.get(key)
        if run is None:
            run = self._create(key, name, tags, at)
        elif run.info.status not in (FINISHED, RUNNING):
            self.client.update_run(run.info.run_id, status=RUNNING)
        if params.keys() - run.data.params.keys():  # new, or its maker was killed between the two
            written = [Param(k, str(v)) for k, v in params.items()]
            self.client.log_batch(run.info.run_id, params=written)
            self._look_again(key)
        return bool(run.info.status == FINISHED)

    def _create(self, key: str, name: str, tags: Mapping[str, Any], at: int) -> Run:
        system = {"mlflow.runName": name, "mlflow.source.name": "sweeps/fixres_grid.py"}
        if key != "sweep":
            system["mlflow.parentRunId"] = self.id("sweep")
        own = {"sweep": self.sweep_id, "key": key} | {k: str(v) for k, v in tags.items()}
        self._runs[key] = self.client.create_run(
            self.experiment_id, start_time=at, tags=system | own
        )
        return self._runs[key]

    def _look_again(self, key: str) -> None:
        self._runs[key] = self.client.get_run(self.id(key))

    def reopen(self, key: str) -> None:
        self.client.update_run(self.id(key), status=RUNNING)

    def put_by(self, key: str, metrics: Iterable[Metric]) -> None:
        """Write these points with the next that are written."""
        self._put_by.setdefault(key, []).extend(metrics)

    def write(self, key: str, metrics: Iterable[Metric] = ()) -> None:
        """Write points, and those put by, in one request."""
        self.put_by(key, metrics)
        if self._put_by[key]:
            self.client.log_batch(self.id(key), metrics=self._put_by[key])
        del self._put_by[key]

    def write_all(self) -> None:
        """All that was put by: a request a run."""
        for key in list(self._put_by):
            self.write(key)

    def tag(self, key: str, tags: Mapping[str, Any]) -> None:
        self.client.log_batch(self.id(key), tags=[RunTag(k, str(v)) for k, v in tags.items()])
        self._look_again(key)

    def use(self, key: str, dataset: Dataset, context: str) -> None:
        """Note the images that a run looked at, and what for."""
        if (key, dataset.name) in self._used:
            return
        tag = InputTag("mlflow.data.context", context)
        self.client.log_inputs(self.id(key), datasets=[DatasetInput(dataset, [tag])])
        self._used.add((key, dataset.name))

    def end(self, key: str, status: str = FINISHED, at: int | None = None) -> None:
        """End the run, at this Unix time in ms, else now."""
        self.write(key)
        self.client.set_terminated(self.id(key), status, at)
        self._look_again(key)

    def end_all(self, status: str) -> None:
        """End every run that is still open, children first: none is left RUNNING."""
        for key in sorted(self._runs, key=lambda k: k == "sweep"):
            self._look_again(key)
            if self._runs[key].info.status == RUNNING:
                self.end(key, status)


def dataset(name: str, digest: str, split: str, source: str, count: int) -> Dataset:
    """One split of the images, as MLflow names it."""
    return Dataset(
        name=f"{name} {split}"[:500],
        digest=f"{digest[:24]} {split}",  # 36 characters at most
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": count}),
    )


def is_transient(error: Exception) -> bool:
    """Whether trying again may help: no answer, or one that says to come back."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500 or error.get_http_status_code() == 429)
    response = getattr(error, "response", None)
    if response is not None:  # of an artifact's upload
        return bool(response.status_code >= 500 or response.status_code in (408, 429))
    return isinstance(error, OSError)
