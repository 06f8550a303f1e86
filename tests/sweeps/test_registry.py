"""The finished model in MLflow: registered once, loadable, called the champion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from torch import nn

from sweeps.events import SweepBegan
from sweeps.registry import ALIAS, register
from sweeps.tracking import Tracking
from tests.sweeps.test_plan import plan_of
from tests.sweeps.test_spec import spec_with
from trainables.store import Store

NAME, RES = "digits-net", 8


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    before, uri = dict(os.environ), mlflow.get_tracking_uri()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    mlflow.set_tracking_uri(uri)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


def tracking_of(folder: Path, sweep_id: str) -> Tracking:
    uri = f"sqlite:///{folder}/mlflow.db"
    tracking = Tracking(uri, "e", sweep_id, "n", Store(folder / "store"))
    tracking.on(SweepBegan(plan=plan_of(spec_with())))
    return tracking


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * RES * RES, 4)).eval()


def versions(tracking: Tracking) -> list[str]:
    found = tracking.client.search_model_versions(f"name = '{NAME}'")
    return sorted(str(v.version) for v in found)


def test_registered_once_a_sweep_and_loadable(folder: Path) -> None:
    tracking = tracking_of(folder, "s1")
    with pytest.raises(MlflowException):
        tracking.client.get_registered_model(NAME)
    uri = register(tracking, net(), RES, NAME, {"variant": "b0"})
    assert uri == f"models:/{NAME}/1" and versions(tracking) == ["1"]

    again = tracking_of(folder, "s1")  # after a kill
    assert register(again, net(), RES, NAME, {"variant": "b0"}) == uri
    assert versions(again) == ["1"]
    version = again.client.get_model_version_by_alias(NAME, ALIAS)
    assert version.tags == {"sweep": "s1", "variant": "b0"}
    assert version.run_id == again.parent_id

    other = tracking_of(folder, "s2")
    assert register(other, net(), RES, NAME, {}) == f"models:/{NAME}/2"
    assert other.client.get_model_version_by_alias(NAME, ALIAS).version in (2, "2")
    for each in (again, other):
        each.close("FINISHED")
        assert each.client.get_run(each.parent_id).info.status == "FINISHED"

    model = mlflow.pyfunc.load_model(uri)
    images = np.random.default_rng(0).normal(size=(3, 3, RES, RES)).astype(np.float32)
    with torch.inference_mode():
        expected = net()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(model.predict(images), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(MlflowException):
        model.predict(images[:, :, :4])  # another resolution than the one it was made for
