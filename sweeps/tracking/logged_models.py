"""Trunks and cells as logged models: their files, what they were made from, how good they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelOutput, Metric
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sweeps.tracking.runs import RunStore
from trainables.storage.files import Place, local_copy

TAG = "checkpoint"  # of a run: the id of its logged model, or that it was dropped
DROPPED = "dropped"


class LoggedModels:
    """One for each run of a trunk or cell that has any."""

    def __init__(self, runs: RunStore):
        self._runs, self._client = runs, runs.client

    def log(
        self,
        key: str,
        name: str,
        *,
        params: Mapping[str, Any],
        files: Sequence[Place],
        metrics: Sequence[Metric],
        step: int,
        made_from: str | None = None,
    ) -> None:
        """Log the files as the model of the run ``key``, once.

        Args:
            metrics: of the model, each with its dataset.
            made_from: the key of a run whose model this one was made from.
        """
        if TAG in self._runs.tags(key):
            return
        model = self._unfinished(key) or self._client.create_logged_model(
            self._runs.experiment_id,
            name=name,
            source_run_id=self._runs.id(key),
            tags={"sweep": self._runs.sweep_id, "key": key},
            params={k: str(v) for k, v in params.items()},
            model_type=key.partition(" ")[0],
        )
        for path in files:
            with local_copy(path) as local:
                self._client.log_model_artifact(model.model_id, str(local))
        run = self._client.get_run(self._runs.id(key))
        made = run.outputs.model_outputs if run.outputs else ()
        if model.model_id not in {output.model_id for output in made}:  # MLflow refuses it twice
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step)])
        source = self._runs.tags(made_from).get(TAG) if made_from else None
        used = run.inputs.model_inputs if run.inputs else ()
        if source is not None and source not in {one.model_id for one in used}:
            self._client.log_inputs(run.info.run_id, models=[LoggedModelInput(source)])
        self._runs.write(key, [_of_model(metric, model.model_id) for metric in metrics])
        self._client.finalize_logged_model(model.model_id, "READY")
        self._runs.tag(key, {TAG: model.model_id})

    def _unfinished(self, key: str) -> LoggedModel | None:
        """What a process began that was killed."""
        found = self._client.search_logged_models(
            [self._runs.experiment_id],
            filter_string=f"tags.sweep = '{self._runs.sweep_id}' AND tags.key = '{key}'",
        )
        return found[0] if found else None

    def keep_only(self, keys: Collection[str]) -> None:
        """Delete the models of all other runs."""
        for key in self._runs.known:
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
        self._runs.tag(key, {TAG: DROPPED})


def _of_model(metric: Metric, model_id: str) -> Metric:
    return Metric(
        metric.key,
        metric.value,
        metric.timestamp,
        metric.step,
        model_id=model_id,
        dataset_name=metric.dataset_name,
        dataset_digest=metric.dataset_digest,
    )
