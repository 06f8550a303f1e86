"""Find, create and write one sweep's runs in MLflow, each under a key of the sweep's own.

Every write can be repeated without changing anything: a run is found again by its tags, and a
metric's point that has the same step, time and value is the same point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

FINISHED, FAILED, RUNNING = "FINISHED", "FAILED", "RUNNING"
SWEEP_KEY = "sweep"  # the parent run


def trunk_key(key: str) -> str:
    """Return the key of a trunk's run, from the trunk's key in the store."""
    return f"trunk {key}"


def cell_key(key: str) -> str:
    """Return the key of a cell's run, from the cell's key in the store."""
    return f"cell {key}"


def points(values: Mapping[str, float], at_ms: int, step: int) -> list[Metric]:
    """Build a point of each metric, all at the same Unix time in ms and the same step."""
    return [Metric(name, value, at_ms, step) for name, value in values.items()]


class RunStore:
    """Finds, creates and writes the runs of one sweep.

    Args:
        client: of the tracking store.
        experiment_id: in which the runs are.
        sweep_id: tells the sweep's runs from those of other sweeps.

    Raises:
        MlflowException: the tracking store does not answer.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep_id: str):
        self.client, self.experiment_id, self.sweep_id = client, experiment_id, sweep_id
        self._runs: dict[str, Run] = {}
        self._deferred: dict[str, list[Metric]] = {}
        self.reload()

    def reload(self) -> None:
        """Find this sweep's runs in MLflow, whichever process created them."""
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
    def keys(self) -> list[str]:
        """List the keys of all runs that exist."""
        return list(self._runs)

    def run_id(self, key: str) -> str:
        """Return MLflow's id of a run.

        Raises:
            KeyError: there is no such run.
        """
        return str(self._runs[key].info.run_id)

    def start_ms(self, key: str) -> int:
        """Return the Unix time in ms at which a run began.

        What a run holds once is written with this time, so that a repeated write is the same.
        """
        return int(self._runs[key].info.start_time)

    def tags(self, key: str) -> dict[str, str]:
        """Return a run's tags, as they were when it was last read or tagged."""
        return dict(self._runs[key].data.tags)

    def ensure(
        self,
        key: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        start_ms: int,
    ) -> bool:
        """Create a run unless it exists, and return whether it has finished.

        A run that was killed or failed is set to RUNNING again. Every run but the parent becomes
        a child of the parent, which must exist.

        Args:
            name: that MLflow shows.
            start_ms: Unix time at which a new run began.
        """
        run = self._runs.get(key)
        if run is None:
            run = self._create(key, name, tags, start_ms)
        elif run.info.status not in (FINISHED, RUNNING):
            self.client.update_run(run.info.run_id, status=RUNNING)
        if params.keys() - run.data.params.keys():
            # The run is new, or its creator was killed before it wrote the parameters.
            values = [Param(k, str(v)) for k, v in params.items()]
            self.client.log_batch(run.info.run_id, params=values)
            self._refresh(key)
        return bool(run.info.status == FINISHED)

    def _create(self, key: str, name: str, tags: Mapping[str, object], start_ms: int) -> Run:
        system = {"mlflow.runName": name, "mlflow.source.name": "sweeps/fixres_grid.py"}
        if key != SWEEP_KEY:
            system["mlflow.parentRunId"] = self.run_id(SWEEP_KEY)
        own = {"sweep": self.sweep_id, "key": key} | {k: str(v) for k, v in tags.items()}
        self._runs[key] = self.client.create_run(
            self.experiment_id, start_time=start_ms, tags=system | own
        )
        return self._runs[key]

    def _refresh(self, key: str) -> None:
        self._runs[key] = self.client.get_run(self.run_id(key))

    def reopen(self, key: str) -> None:
        """Set a finished run to RUNNING again."""
        self.client.update_run(self.run_id(key), status=RUNNING)

    def defer_metrics(self, key: str, metrics: Iterable[Metric]) -> None:
        """Keep these points until the run's next metrics are logged."""
        self._deferred.setdefault(key, []).extend(metrics)

    def log_metrics(self, key: str, metrics: Iterable[Metric] = ()) -> None:
        """Log these points and the run's deferred ones, in one request."""
        self.defer_metrics(key, metrics)
        if self._deferred[key]:
            self.client.log_batch(self.run_id(key), metrics=self._deferred[key])
        del self._deferred[key]

    def log_deferred(self) -> None:
        """Log all deferred points, in one request for each run."""
        for key in list(self._deferred):
            self.log_metrics(key)

    def set_tags(self, key: str, tags: Mapping[str, object]) -> None:
        """Set tags of a run; values become strings."""
        values = [RunTag(k, str(v)) for k, v in tags.items()]
        self.client.log_batch(self.run_id(key), tags=values)
        self._refresh(key)

    def end(self, key: str, status: str = FINISHED, end_ms: int | None = None) -> None:
        """Log a run's deferred points, then end it at this Unix time in ms, or now."""
        self.log_metrics(key)
        self.client.set_terminated(self.run_id(key), status, end_ms)
        self._refresh(key)

    def end_all(self, status: str) -> None:
        """End every run that is still RUNNING, the parent last."""
        for key in sorted(self._runs, key=lambda k: k == SWEEP_KEY):
            self._refresh(key)
            if self._runs[key].info.status == RUNNING:
                self.end(key, status)
