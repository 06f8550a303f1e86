"""The final model in MLflow: logged, registered, and called the champion."""

from __future__ import annotations

import logging
import os
import warnings
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from sweeps.tracking import Tracking

ALIAS = "champion"


def register(
    tracking: Tracking, model: nn.Module, test_res: int, name: str, tags: dict[str, str]
) -> str:
    """Log the model in the parent run and register it once; the version's URI.

    The logged model takes (N, 3, test_res, test_res) float32, normalised, and gives (N, C) logits.
    """
    known = tracking.client.search_model_versions(f"name = '{name}'")
    found = next((v for v in known if v.tags.get("sweep") == tracking.sweep_id), None)
    number = found.version if found else _log(tracking, model, test_res, name, tags)
    tracking.client.set_registered_model_alias(name, ALIAS, number)
    return f"models:/{name}/{number}"


def _log(
    tracking: Tracking, model: nn.Module, test_res: int, name: str, tags: dict[str, str]
) -> str:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    mlflow.set_tracking_uri(tracking.uri)
    for logger in ("mlflow", "torch.export", "torch.fx"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    example = np.zeros((2, 3, test_res, test_res), np.float32)
    with torch.inference_mode():
        classes = model(torch.from_numpy(example)).shape[1]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, test_res, test_res))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
    with warnings.catch_warnings(), mlflow.start_run(run_id=tracking.parent_id):
        warnings.simplefilter("ignore")
        logged = mlflow.pytorch.log_model(
            model,
            name="model",
            input_example=example,
            signature=signature,
            pip_requirements=[f"{p}=={version(p)}" for p in ("mlflow", "torch", "numpy")],
        )
    if not any(m.name == name for m in tracking.client.search_registered_models()):
        tracking.client.create_registered_model(name)
    created = tracking.client.create_model_version(
        name,
        source=logged.model_uri,
        run_id=tracking.parent_id,
        model_id=logged.model_id,
        tags={"sweep": tracking.sweep_id, **tags},
    )
    return str(created.version)
