"""Log the checkpoints of trunks and cells as MLflow logged models, and delete them again.

A logged model holds files, what they were made from, and how accurate they are. The run of a trunk
or a cell has at most one. The steps to log a model can be repeated: a process that goes on where
another was killed finds the model by its tags.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelOutput, Metric, Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from sweeps.tracking.runs import NoRunError, RunStore
from trainables.storage.files import Place, local_copy

TAG = "checkpoint"  # tag of a run: the id of its logged model, or DROPPED
DROPPED = "dropped"

_IN_NO_NAME = dict.fromkeys(map(ord, "/:.%\"'"), "_")


def find_models(runs: RunStore, key: str) -> list[LoggedModel]:
    """List the logged models of the run ``key``, finished or not."""
    return list(
        runs.client.search_logged_models(
            [runs.experiment_id],
            filter_string=f"tags.sweep = '{runs.sweep_id}' AND tags.key = '{key}'",
        )
    )


def find_model(runs: RunStore, key: str) -> LoggedModel | None:
    """Return the one logged model of the run ``key``, finished or not, or None."""
    return next(iter(find_models(runs, key)), None)


def create_model(
    runs: RunStore,
    key: str,
    *,
    name: str,
    params: Mapping[str, object],
    model_type: str,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> LoggedModel:
    """Create an empty logged model of the run ``key``, which :func:`find_model` will find.

    Args:
        name: what MLflow allows in none is replaced.
    """
    return runs.client.create_logged_model(
        runs.experiment_id,
        name=name.translate(_IN_NO_NAME),
        source_run_id=runs.run_id(key),
        tags={"sweep": runs.sweep_id, "key": key, **tags},
        params={k: str(v) for k, v in params.items()},
        model_type=model_type,
    )


def log_output(client: MlflowClient, run: Run, model_id: str, step: int) -> None:
    """Log a model as an output of the run, unless the run has it: MLflow refuses it twice."""
    outputs = run.outputs.model_outputs if run.outputs else ()
    if model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step)])


class LoggedModels:
    """Logs and deletes the logged models of a sweep's trunks and cells."""

    def __init__(self, runs: RunStore):
        self._runs, self._client = runs, runs.client

    def log(
        self,
        key: str,
        name: str,
        *,
        params: Mapping[str, object],
        files: Sequence[Place],
        metrics: Sequence[Metric],
        step: int,
        source_key: str | None = None,
    ) -> None:
        """Log the files as the model of the run ``key``, once; one that was deleted stays so.

        Where the sweep's store keeps the files no longer, there is nothing to log.

        Args:
            metrics: of the model, each with its dataset.
            step: of the run, at which the model was made.
            source_key: of the run whose model this one was made from.
        """
        if TAG in self._runs.tags(key):
            return
        if not all(path.exists() for path in files):
            self._runs.set_tags(key, {TAG: DROPPED})
            return
        model = find_model(self._runs, key) or create_model(
            self._runs, key, name=name, params=params, model_type=key.partition(" ")[0]
        )
        for path in files:
            with local_copy(path) as local:
                self._client.log_model_artifact(model.model_id, str(local))
        run = self._client.get_run(self._runs.run_id(key))
        log_output(self._client, run, model.model_id, step)
        self._runs.log_metrics(key, [_of_model(metric, model.model_id) for metric in metrics])
        self._client.finalize_logged_model(model.model_id, "READY")
        if source_key is not None:
            self._log_source(run, source_key)
        self._runs.set_tags(key, {TAG: model.model_id})

    def _log_source(self, run: Run, source_key: str) -> None:
        """Log the model of another run as an input of this one, unless it is one already.

        Raises:
            NoRunError: the model of the other run was refused.
        """
        source = self._runs.tags(source_key).get(TAG)
        if source is None:
            raise NoRunError(f"there is no model of {source_key}")
        inputs = run.inputs.model_inputs if run.inputs else ()
        if source != DROPPED and source not in {model.model_id for model in inputs}:
            self._client.log_inputs(run.info.run_id, models=[LoggedModelInput(source)])

    def keep_only(self, keys: Collection[str]) -> None:
        """Delete the models of all runs but these, with their files."""
        for key in self._runs.keys:
            if key not in keys:
                self._drop(key)

    def _drop(self, key: str) -> None:
        """Delete the model of the run ``key``, its files first: MLflow alone would keep them."""
        model_id = self._runs.tags(key).get(TAG, DROPPED)
        if model_id == DROPPED:
            return
        location = self._client.get_logged_model(model_id).artifact_location
        get_artifact_repository(location, tracking_uri=self._client.tracking_uri).delete_artifacts()
        self._client.delete_logged_model(model_id)
        self._runs.set_tags(key, {TAG: DROPPED})


def _of_model(metric: Metric, model_id: str) -> Metric:
    """Return the same point as one of the model, not only of the run."""
    return Metric(
        metric.key,
        metric.value,
        metric.timestamp,
        metric.step,
        model_id=model_id,
        dataset_name=metric.dataset_name,
        dataset_digest=metric.dataset_digest,
    )
