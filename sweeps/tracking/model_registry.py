"""The finished model in MLflow: logged, registered, and called the champion.

Every step finds what an earlier process did of it and does the rest: a sweep that is cut off
anywhere in here ends with one logged model and one version all the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from sweeps.tracking.tracker import MlflowTracker

ALIAS, FORMER = "champion", "previous"
VERSIONS = "mlflow.modelVersions"  # of a logged model: what the UI links it to
KEY = "sweep"  # tells the parent run's model from those of trunks and cells


def register(tracking: MlflowTracker, folder: Path, name: str, tags: dict[str, str]) -> str:
    """Log ``folder`` as the parent run's model, register it once a sweep; the version's URI.

    It becomes the champion, and the one that was it before the previous one. Scores that the parent
    run has by now become the model's too.

    Args:
        folder: an MLflow model, with its card in README.md.
        tags: what tells it from others: of the version, and parameters of the logged model.
    """
    model = _logged(tracking, folder, tags)
    number = _version(tracking, model, name, tags, _title(folder))
    if VERSIONS not in model.tags:  # a server notes it, a database does not
        noted = json.dumps([{"name": name, "version": number}])
        tracking.client.set_logged_model_tags(model.model_id, {VERSIONS: noted})
    _name_champion(tracking, name, number)
    return f"models:/{name}/{number}"


def _logged(tracking: MlflowTracker, folder: Path, tags: dict[str, str]) -> LoggedModel:
    client, run = tracking.client, tracking.client.get_run(tracking.parent_id)
    found = client.search_logged_models(
        [tracking.experiment_id],
        filter_string=f"tags.sweep = '{tracking.sweep_id}' AND tags.key = '{KEY}'",
    )
    if found and found[0].status == LoggedModelStatus.READY:
        return found[0]
    model = found[0] if found else client.create_logged_model(
        tracking.experiment_id,
        name="model",
        source_run_id=tracking.parent_id,
        tags={"sweep": tracking.sweep_id, "key": KEY},
        params=tags,
        model_type="model",
    )  # fmt: skip
    client.log_model_artifacts(model.model_id, str(folder))
    made = {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
    if model.model_id not in made:  # told twice, MLflow refuses it
        client.log_outputs(tracking.parent_id, [LoggedModelOutput(model.model_id, step=0)])
    scores = [
        Metric(key, value, run.info.start_time, 0, model_id=model.model_id)
        for key, value in run.data.metrics.items()
        if "/top" in key
    ]
    client.log_batch(tracking.parent_id, metrics=scores)
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _version(
    tracking: MlflowTracker, model: LoggedModel, name: str, tags: dict[str, str], description: str
) -> str:
    client = tracking.client
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("sweep") == tracking.sweep_id:
            return str(version.version)
    created = client.create_model_version(
        name,
        source=model.artifact_location,  # MLflow would look for models:/ID in its global store
        run_id=tracking.parent_id,
        model_id=model.model_id,
        description=description,
        tags={"sweep": tracking.sweep_id, **tags},
    )
    return str(created.version)


def _title(folder: Path) -> str:
    """The heading of the model card."""
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# ")).removeprefix("# ")


def _name_champion(tracking: MlflowTracker, name: str, number: str) -> None:
    aliases = tracking.client.get_registered_model(name).aliases
    before = aliases.get(ALIAS)
    if before is not None and str(before) != number:
        tracking.client.set_registered_model_alias(name, FORMER, str(before))
    tracking.client.set_registered_model_alias(name, ALIAS, number)
