"""Find, create and write one sweep's runs in MLflow, each under a key of the sweep's own.

Every write can be repeated without changing anything: a run is found again by its tags, and a
metric's point that has the same step, time and value is the same point.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

FINISHED, FAILED, RUNNING = "FINISHED", "FAILED", "RUNNING"
SWEEP_KEY = "sweep"  # the parent run
# Tags that name other runs, by ids which are new ones where those runs were deleted.
LINKS = frozenset(("mlflow.parentRunId", "trunk_run"))


class NoRunError(Exception):
    """There is no such run, or no model of it: to make it was refused before."""


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
        lacking: keys of runs to which something was refused: they are written again, though they
            have finished.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        sweep_id: str,
        lacking: Container[str] = frozenset(),
    ):
        self.client, self.experiment_id, self.sweep_id = client, experiment_id, sweep_id
        self._lacking = lacking
        self._found: dict[str, Run] | None = None  # None: MLflow has not been asked yet
        self._deferred: dict[str, list[Metric]] = {}

    @property
    def _runs(self) -> dict[str, Run]:
        if self._found is None:
            self.reload()
        assert self._found is not None
        return self._found

    def reload(self) -> set[str]:
        """Find this sweep's runs in MLflow, whichever process created them.

        A run is created twice where the answer to the first request came too late: the twin that
        holds less is deleted.

        Returns:
            The keys of runs that were there before, and have been deleted in MLflow.
        """
        found: dict[str, list[Run]] = defaultdict(list)
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.sweep = '{self.sweep_id}'", page_token=token
            )
            for run in page:
                found[run.data.tags["key"]].append(run)
            token = page.token
            if not token:
                break
        former = self._found or {}
        self._found = {key: self._only(runs, former.get(key)) for key, runs in found.items()}
        return former.keys() - self._found.keys()

    def _only(self, runs: list[Run], known: Run | None) -> Run:
        """Return the run of a key that is written to, and delete its twins."""

        def worth(run: Run) -> tuple[bool, bool, int, int]:
            is_known = known is not None and known.info.run_id == run.info.run_id
            ended = run.info.status == FINISHED
            return is_known, ended, len(run.data.metrics), -run.info.start_time

        best = max(runs, key=worth)
        for run in runs:
            if run is not best:
                with suppress(MlflowException):  # It is in the way of nothing.
                    self.client.delete_run(run.info.run_id)
        return best

    @property
    def keys(self) -> list[str]:
        """List the keys of all runs that exist."""
        return list(self._runs)

    @property
    def open_keys(self) -> list[str]:
        """List the keys of the runs that have not ended, as they were when they were last read."""
        return [key for key, run in self._runs.items() if run.info.status == RUNNING]

    def run_id(self, key: str) -> str:
        """Return MLflow's id of a run.

        Raises:
            NoRunError: there is no such run.
        """
        return str(self._run(key).info.run_id)

    def start_ms(self, key: str) -> int:
        """Return the Unix time in ms at which a run began.

        What a run holds once is written with this time, so that a repeated write is the same.
        """
        return int(self._run(key).info.start_time)

    def tags(self, key: str) -> dict[str, str]:
        """Return a run's tags, as they were when it was last read or tagged."""
        return dict(self._run(key).data.tags)

    def params(self, key: str) -> dict[str, str]:
        """Return a run's parameters, which MLflow never changes, as they were last read."""
        return dict(self._run(key).data.params)

    def _run(self, key: str) -> Run:
        try:
            return self._runs[key]
        except KeyError:
            raise NoRunError(f"there is no run of {key}") from None

    def ensure(
        self,
        key: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        start_ms: int,
    ) -> bool:
        """Create a run unless it exists, and return whether it has finished and lacks nothing.

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
        links = {k: v for k, v in self._links(key, tags).items() if run.data.tags.get(k) != v}
        if links:
            self.set_tags(key, links)
        return bool(run.info.status == FINISHED) and key not in self._lacking

    def _create(self, key: str, name: str, tags: Mapping[str, object], start_ms: int) -> Run:
        system = {"mlflow.runName": name, "mlflow.source.name": "sweeps/fixres_grid.py"}
        own = {"sweep": self.sweep_id, "key": key} | {k: str(v) for k, v in tags.items()}
        self._runs[key] = self.client.create_run(
            self.experiment_id, start_time=start_ms, tags=system | own | self._links(key, tags)
        )
        return self._runs[key]

    def _links(self, key: str, tags: Mapping[str, object]) -> dict[str, str]:
        """Return the tags that name other runs, as they are to be."""
        links = {name: str(value) for name, value in tags.items() if name in LINKS}
        if key != SWEEP_KEY:
            links["mlflow.parentRunId"] = self.run_id(SWEEP_KEY)
        return links

    def _refresh(self, key: str) -> None:
        self._runs[key] = self.client.get_run(self.run_id(key))

    def reopen(self, key: str) -> None:
        """Set a finished run to RUNNING again."""
        self.client.update_run(self.run_id(key), status=RUNNING)

    def defer_metrics(self, key: str, metrics: Iterable[Metric]) -> None:
        """Keep these points until the run's next metrics are logged."""
        self._deferred.setdefault(key, []).extend(metrics)

    def drop_deferred(self, key: str) -> None:
        """Forget the run's deferred points, which were refused."""
        self._deferred.pop(key, None)

    @property
    def deferred_keys(self) -> list[str]:
        """List the keys of the runs that have deferred points."""
        return list(self._deferred)

    def log_metrics(self, key: str, metrics: Iterable[Metric] = ()) -> None:
        """Log these points and the run's deferred ones, in one request."""
        self.defer_metrics(key, metrics)
        if self._deferred[key]:
            self.client.log_batch(self.run_id(key), metrics=self._deferred[key])
        del self._deferred[key]

    def set_tags(self, key: str, tags: Mapping[str, object]) -> None:
        """Set tags of a run; values become strings."""
        values = [RunTag(k, str(v)) for k, v in tags.items()]
        self.client.log_batch(self.run_id(key), tags=values)
        self._refresh(key)

    def end(self, key: str, status: str = FINISHED, end_ms: int | None = None) -> None:
        """Log a run's deferred points, then end it at this Unix time in ms, or now.

        One that has ended so keeps its time.
        """
        self.log_metrics(key)
        if self._run(key).info.status != status:
            self.client.set_terminated(self.run_id(key), status, end_ms)
            self._refresh(key)

    def end_if_running(self, key: str, status: str) -> None:
        """End a run if it is still RUNNING."""
        self._refresh(key)
        if self._run(key).info.status == RUNNING:
            self.end(key, status)
