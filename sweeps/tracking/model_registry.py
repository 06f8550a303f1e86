"""Log a sweep's finished model, register it as a new version, and make that the champion.

Every step first looks for what an earlier process did: a sweep that is killed anywhere in between
and continued still ends with one logged model and one version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from sweeps.tracking.logged_models import create_model, find_model, log_output
from sweeps.tracking.runs import SWEEP_KEY, RunStore

CHAMPION, PREVIOUS = "champion", "previous"  # aliases of versions
VERSIONS_TAG = "mlflow.modelVersions"  # tag of a logged model that links it to versions in the UI


class ModelRegistry:
    """Registers the model of one sweep; the parent run must exist."""

    def __init__(self, runs: RunStore):
        self._runs, self._client = runs, runs.client

    def register(self, folder: Path, name: str, tags: Mapping[str, str]) -> str:
        """Log ``folder`` as the parent run's model and register it, once; return the version's URI.

        The version becomes the champion, and the one that was the champion becomes the previous
        one. The model gets the accuracies that the parent run has by now.

        Args:
            folder: an MLflow model, with its model card in README.md.
            name: of the registered model, which is created if it does not exist.
            tags: tell the model from others: tags of the version, parameters of the logged model.

        Raises:
            MlflowException: MLflow does not answer, or refuses the name.
        """
        model = self._logged_model(folder, tags)
        number = self._version(model, name, tags, _title(folder))
        if VERSIONS_TAG not in model.tags:
            # A server sets this tag itself, a database without a server does not.
            versions = json.dumps([{"name": name, "version": number}])
            self._client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: versions})
        self._make_champion(name, number)
        return f"models:/{name}/{number}"

    def _logged_model(self, folder: Path, tags: Mapping[str, str]) -> LoggedModel:
        run = self._client.get_run(self._runs.run_id(SWEEP_KEY))
        model = find_model(self._runs, SWEEP_KEY)
        if model is not None and model.status == LoggedModelStatus.READY:
            return model
        model = model or create_model(
            self._runs, SWEEP_KEY, name="model", params=tags, model_type="model"
        )
        self._client.log_model_artifacts(model.model_id, str(folder))
        log_output(self._client, run, model.model_id, step=0)
        accuracies = [
            Metric(key, value, run.info.start_time, 0, model_id=model.model_id)
            for key, value in run.data.metrics.items()
            if "/top" in key
        ]
        self._client.log_batch(run.info.run_id, metrics=accuracies)
        return self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _version(
        self, model: LoggedModel, name: str, tags: Mapping[str, str], description: str
    ) -> str:
        """Return the number of this sweep's version, which is created if it does not exist."""
        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(name)
        for version in self._client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("sweep") == self._runs.sweep_id:
                return str(version.version)
        created = self._client.create_model_version(
            name,
            # MLflow would look for models:/ID in its global tracking store.
            source=model.artifact_location,
            run_id=self._runs.run_id(SWEEP_KEY),
            model_id=model.model_id,
            description=description,
            tags={"sweep": self._runs.sweep_id, **tags},
        )
        return str(created.version)

    def _make_champion(self, name: str, number: str) -> None:
        champion = self._client.get_registered_model(name).aliases.get(CHAMPION)
        if champion is not None and str(champion) != number:
            self._client.set_registered_model_alias(name, PREVIOUS, str(champion))
        self._client.set_registered_model_alias(name, CHAMPION, number)


def _title(folder: Path) -> str:
    """Return the heading of the model card."""
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# ")).removeprefix("# ")
