"""Log a sweep's finished model, register it as a new version, and make the best one the champion.

Every step first looks for what an earlier process did: a sweep that is killed anywhere in between
and continued still ends with one logged model and one version. One that is extended and then
chooses another net gets another of both; by the digest of its weights a net is told from others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from sweeps.planning.options.groups import RegisterIf
from sweeps.tracking.logged_models import create_model, find_models, log_output
from sweeps.tracking.runs import SWEEP_KEY, RunStore
from trainables.evaluation.class_metrics import IN_WORDS
from trainables.evaluation.class_metrics import Metric as MetricName

CHAMPION, PREVIOUS = "champion", "previous"  # aliases of versions
IMAGES_TAG, VAL_TAG = "images", "val_top1"  # tags of a version, by which others are compared to it
WEIGHTS_TAG = "weights"  # of versions and logged models: the digest of the net's weights
VERSIONS_TAG = "mlflow.modelVersions"  # tag of a logged model that links it to versions in the UI


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The model of a sweep, to be registered."""

    folder: Path
    """An MLflow model, with its model card in README.md."""
    name: str
    """Of the registered model, which is created if it does not exist."""
    tags: Mapping[str, str]
    """Tell the model from others: tags of the version, parameters of the logged model."""
    images: str
    """Digest of the images that it was chosen on."""
    val_top1: float
    """As a share."""
    metric: MetricName = "top1"
    """By which it was chosen, and is better than another."""
    value: float | None = None
    """The share on val by that metric; None: it is top-1."""
    condition: RegisterIf = "better"
    """On which it is registered."""
    step: int = 0
    """How often the sweep was extended before."""

    @cached_property
    def weights(self) -> str:
        """The digest of the net's weights."""
        with (self.folder / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def is_of(self, tags: Mapping[str, str]) -> bool:
        """Whether a version or logged model of this sweep with these tags is of this very net.

        Versions of this that did not tag the weights could not extend a sweep either.
        """
        return tags.get(WEIGHTS_TAG) == self.weights if WEIGHTS_TAG in tags else self.step == 0


class ModelRegistry:
    """Registers the model of one sweep; the parent run must exist.

    Args:
        say: called with a sentence where a model does not become the champion.
    """

    def __init__(self, runs: RunStore, say: Callable[[str], None] = lambda _: None):
        self._runs, self._client, self._say = runs, runs.client, say

    def register(self, candidate: Candidate) -> str | None:
        """Log the model as the parent run's and register it, once; return the version's URI.

        The version becomes the champion, and the one that was the champion becomes the previous
        one. On the condition "better", a model is not registered where a champion of the same
        images is as good on val; and beside a champion of other images, to which it cannot be
        compared, it is registered without becoming the champion. The logged model gets the
        accuracies that the parent run has by now.

        Returns:
            None where it is not registered.

        Raises:
            MlflowException: MLflow does not answer, or refuses the name.
        """
        model = self._logged_model(candidate)
        if candidate.condition == "never":
            return None
        name = candidate.name
        champion = self._champion(name)
        is_first = champion is None or (
            champion.tags.get("sweep") == self._runs.sweep_id and candidate.is_of(champion.tags)
        )
        becomes_champion = is_first or candidate.condition == "always"
        if champion is not None and not becomes_champion:
            val = self._val(champion, candidate)
            own = candidate.val_top1 if candidate.value is None else candidate.value
            if val is not None and val >= own:
                self._say(
                    f"not registered: version {champion.version} of {name}, its champion, has val "
                    f"{IN_WORDS[candidate.metric]} {100 * val:.1f} % on the same images, and this "
                    f"model {100 * own:.1f} % (--register-if always registers it)"
                )
                return None
            becomes_champion = val is not None
        number = self._version(model, candidate)
        if VERSIONS_TAG not in model.tags:
            # A server sets this tag itself, a database without a server does not.
            versions = json.dumps([{"name": name, "version": number}])
            self._client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: versions})
        if becomes_champion:
            self._make_champion(name, number)
        elif champion is not None:
            self._say(
                f"registered as version {number} of {name}, whose champion stays version "
                f"{champion.version}: that was chosen on other images, to which val does not "
                "compare (--register-if always makes this model the champion)"
            )
        return f"models:/{name}/{number}"

    def _logged_model(self, candidate: Candidate) -> LoggedModel:
        run = self._client.get_run(self._runs.run_id(SWEEP_KEY))
        own = (m for m in find_models(self._runs, SWEEP_KEY) if candidate.is_of(m.tags))
        model = next(own, None)
        if model is not None and model.status == LoggedModelStatus.READY:
            return model
        model = model or create_model(
            self._runs,
            SWEEP_KEY,
            name="model",
            params=candidate.tags,
            model_type="model",
            tags={WEIGHTS_TAG: candidate.weights},
        )
        self._client.log_model_artifacts(model.model_id, str(candidate.folder))
        log_output(self._client, run, model.model_id, step=candidate.step)
        accuracies = [
            Metric(key, value, run.info.start_time, candidate.step, model_id=model.model_id)
            for key, value in run.data.metrics.items()
            if any(name in key for name in ("/top", "/balanced_accuracy", "/macro_f1"))
        ]
        self._client.log_batch(run.info.run_id, metrics=accuracies)
        return self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _champion(self, name: str) -> ModelVersion | None:
        """Return the champion of the registered model, which is created if it does not exist."""
        try:
            number = self._client.get_registered_model(name).aliases.get(CHAMPION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(name)
            number = None
        return None if number is None else self._client.get_model_version(name, str(number))

    def _val(self, version: ModelVersion, candidate: Candidate) -> float | None:
        """Return the version's value on val by the candidate's metric.

        None: it is of other images, or not known.
        """
        tags, metrics = dict(version.tags), {}
        tag = f"val_{candidate.metric}"
        if tag not in tags and version.run_id:
            # It was chosen by another metric, or registered before versions had these tags: the
            # sweep's run has them.
            try:
                data = self._client.get_run(version.run_id).data
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                tags, metrics = data.tags, data.metrics
        if tags.get(IMAGES_TAG) != candidate.images:
            return None
        value = tags.get(tag, metrics.get(f"val/{candidate.metric}"))
        return None if value is None else float(value)

    def _version(self, model: LoggedModel, candidate: Candidate) -> str:
        """Return the number of the net's version, which is created if it does not exist."""
        sweep_id = self._runs.sweep_id
        for version in self._client.search_model_versions(f"tags.sweep = '{sweep_id}'"):
            if version.name == candidate.name and candidate.is_of(version.tags):
                return str(version.version)
        created = self._client.create_model_version(
            candidate.name,
            # MLflow would look for models:/ID in its global tracking store.
            source=model.artifact_location,
            run_id=self._runs.run_id(SWEEP_KEY),
            model_id=model.model_id,
            description=_title(candidate.folder),
            tags={
                "sweep": sweep_id,
                **candidate.tags,
                IMAGES_TAG: candidate.images,
                VAL_TAG: str(candidate.val_top1),
                WEIGHTS_TAG: candidate.weights,
                **self._value_tag(candidate),
            },
        )
        return str(created.version)

    def _value_tag(self, candidate: Candidate) -> dict[str, str]:
        if candidate.value is None:
            return {}
        return {f"val_{candidate.metric}": str(candidate.value)}

    def _make_champion(self, name: str, number: str) -> None:
        champion = self._client.get_registered_model(name).aliases.get(CHAMPION)
        if champion is not None and str(champion) != number:
            self._client.set_registered_model_alias(name, PREVIOUS, str(champion))
        self._client.set_registered_model_alias(name, CHAMPION, number)


def _title(folder: Path) -> str:
    """Return the heading of the model card."""
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# ")).removeprefix("# ")
