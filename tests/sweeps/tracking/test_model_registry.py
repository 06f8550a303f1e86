"""The finished model in MLflow: logged and registered once, called the champion."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import onnx
import pytest
import timm
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.tracking import MlflowClient
from onnx import TensorProto, helper
from PIL import Image

from sweeps.events.event_types import SweepBegan
from sweeps.final_model.mlflow_flavor import write_mlflow_model
from sweeps.tracking.model_registry import ALIAS, FORMER, KEY, register
from sweeps.tracking.tracker import MlflowTracker
from tests.factories import plan_of, spec_with
from trainables.export.timm_format import write_timm
from trainables.storage.artifact_store import Store
from trainables.transforms.eval_transform import EvalTransform

CLASSES = ("red", "green", "blue")
TAGS = {"variant": "lite0", "train_res": "32", "test_res": "64", "arm": "fix"}
STEPS = (
    "create_logged_model",
    "log_model_artifacts",
    "log_outputs",
    "log_batch",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_logged_model_tags",
    "set_registered_model_alias",
)


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow's defaults, in a folder where nothing else should turn up."""
    before, uri, here = dict(os.environ), mlflow.get_tracking_uri(), Path.cwd()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(elsewhere)
    yield
    mlflow.set_tracking_uri(uri)
    os.environ.clear()
    os.environ.update(before)
    os.chdir(here)
    assert not list(elsewhere.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all: a fresh one takes seconds."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that timm opens, and for MLflow a graph that calls a picture by its main colour."""
    folder = tmp_path_factory.mktemp("model")
    net: Any = timm.create_model("tf_efficientnet_lite0", num_classes=len(CLASSES))
    transform = EvalTransform(test_res=64, crop_pct=1.0, interpolation="bicubic")
    write_timm(
        folder, net.state_dict(), variant="lite0", classes=CLASSES, train_res=32,
        transform=transform,
    )  # fmt: skip
    pixels, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("pixels", ("N", 3, 64, 64)), ("logits", ("N", 3)))
    )
    sides = helper.make_tensor("sides", TensorProto.INT64, (2,), (2, 3))
    mean = helper.make_node("ReduceMean", ["pixels", "sides"], ["logits"], keepdims=0)
    graph = helper.make_graph([mean], "colour", [pixels], [logits], [sides])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    (folder / "README.md").write_text("---\nlibrary_name: timm\n---\n# lite0, 32 -> 64 px\n\nx\n")
    green = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(green, "PNG")
    write_mlflow_model(folder, example=green.getvalue())
    return folder


def tracking_of(folder: Path, sweep_id: str) -> MlflowTracker:
    uri = f"sqlite:///{folder}/mlflow.db"
    tracking = MlflowTracker(uri, "e", sweep_id, "n", Store(folder / "store"))
    tracking.on(SweepBegan(plan=plan_of(spec_with())))
    tracking.flush()
    return tracking


def versions(client: MlflowClient, name: str) -> list[str]:
    return sorted(str(v.version) for v in client.search_model_versions(f"name = '{name}'"))


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return {k: str(v) for k, v in client.get_registered_model(name).aliases.items()}


def logged(tracking: MlflowTracker) -> list[Any]:
    return list(
        tracking.client.search_logged_models(
            [tracking.experiment_id],
            filter_string=f"tags.sweep = '{tracking.sweep_id}' AND tags.key = '{KEY}'",
        )
    )


def outputs(tracking: MlflowTracker) -> list[str]:
    found = tracking.client.get_run(tracking.parent_id).outputs
    return [output.model_id for output in found.model_outputs] if found else []


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_registered_is_the_folder(folder: Path, model: Path, tmp_path: Path) -> None:
    tracking = tracking_of(folder, "s1")
    client, at = tracking.client, tracking.client.get_run(tracking.parent_id).info.start_time
    scores = {"val/top1": 0.9, "test/top1": 0.8, "test/top1_untuned": 0.7, "work/gmacs": 0.1}
    client.log_batch(tracking.parent_id, metrics=[Metric(k, v, at, 0) for k, v in scores.items()])
    assert register(tracking, model, "net", TAGS) == "models:/net/1"

    version = client.get_model_version_by_alias("net", ALIAS)
    assert version.tags == {"sweep": "s1", **TAGS}
    assert version.run_id == tracking.parent_id
    assert version.description == "lite0, 32 -> 64 px"
    (made,) = logged(tracking)
    assert made.status == LoggedModelStatus.READY and made.params == TAGS
    assert json.loads(made.tags["mlflow.modelVersions"]) == [{"name": "net", "version": "1"}]
    assert {m.key: m.value for m in made.metrics} == {
        key: value for key, value in scores.items() if "top1" in key
    }
    assert outputs(tracking) == [made.model_id]
    for key in scores:
        assert len(client.get_metric_history(tracking.parent_id, key)) == 1

    uri = f"models:/net@{ALIAS}"
    mlflow.set_tracking_uri(tracking.uri)
    mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    downloaded = contents(tmp_path)
    del downloaded[Path("registered_model_meta")]  # MLflow's own
    assert downloaded == contents(model)
    opened: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert opened.pretrained_cfg["label_names"] == list(CLASSES)
    loaded = mlflow.pyfunc.load_model(uri)
    assert loaded.predict(loaded.input_example)["label"].to_list() == ["green"]
    tracking.close("FINISHED")
    assert client.get_run(tracking.parent_id).info.status == "FINISHED"


def test_the_champion_before_is_the_previous_one(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    trackings = [tracking_of(folder, sweep_id) for sweep_id in ("a1", "a2", "a3")]
    expected = [{ALIAS: "1"}, {ALIAS: "2", FORMER: "1"}, {ALIAS: "3", FORMER: "2"}]
    for tracking, wanted in zip(trackings, expected, strict=True):
        register(tracking, model, "three", TAGS)
        assert aliases(client, "three") == wanted
        with monkeypatch.context() as patch:  # again: nothing is sent twice
            patch.setattr(tracking.client, "log_model_artifacts", None)
            register(tracking, model, "three", TAGS)
        assert aliases(client, "three") == wanted  # nobody is their own predecessor
    assert versions(client, "three") == ["1", "2", "3"]
    for tracking in trackings:
        tracking.close("FINISHED")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_off_anywhere_it_is_done_once(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Killed before or after each step, the next process ends with what one alone would have."""
    for step in STEPS:
        name = f"cut-{step}-{after}"
        former = tracking_of(folder, f"former-{name}")
        if step != "create_registered_model":
            register(former, model, name, TAGS)
        former.close("FINISHED")
        tracking = tracking_of(folder, name)
        whole = getattr(tracking.client, step)

        def cut(*args: Any, whole: Any = whole, **named: Any) -> None:
            if after:
                whole(*args, **named)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(tracking.client, step, cut)
            with pytest.raises(Killed):
                register(tracking, model, name, TAGS)
        tracking.close("KILLED")

        again = tracking_of(folder, name)
        uri = register(again, model, name, TAGS)
        number = uri.rpartition("/")[2]
        assert aliases(again.client, name)[ALIAS] == number
        if step == "create_registered_model":
            assert (number, versions(again.client, name)) == ("1", ["1"])
        else:
            assert aliases(again.client, name) == {ALIAS: "2", FORMER: "1"}
            assert versions(again.client, name) == ["1", "2"]
        (made,) = logged(again)
        assert made.status == LoggedModelStatus.READY
        stored = mlflow.artifacts.list_artifacts(
            artifact_uri=made.artifact_location, tracking_uri=again.uri
        )
        assert {Path(f.path).name for f in stored} == {p.name for p in model.iterdir()}
        assert outputs(again) == [made.model_id]
        again.close("FINISHED")
