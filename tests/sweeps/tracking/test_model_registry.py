"""The finished model in MLflow: logged and registered once, called the champion."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import onnx
import pytest
import timm
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from onnx import TensorProto, helper
from PIL import Image

from sweeps.final_model.mlflow_flavor import write_mlflow_model
from sweeps.planning.options.groups import RegisterIf
from sweeps.tracking.access.connection import open_experiment
from sweeps.tracking.model_registry import CHAMPION, PREVIOUS, Candidate, ModelRegistry
from sweeps.tracking.runs import SWEEP_KEY, RunStore, points
from tests.sweeps.tracking.recorded_sweep import EXPERIMENT
from trainables.export.timm_format import write_timm
from trainables.storage.hashing import content_hash
from trainables.transforms.eval_transform import EvalTransform

START_MS = 1_700_000_000_000
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
def working_directory(
    environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A folder in which MLflow should write nothing."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("elsewhere")
    os.chdir(folder)
    yield
    # An address that is still set would hide the environment's from later tests.
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    os.chdir(before)
    assert not list(folder.iterdir())


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


def runs_of(database: Path, sweep_id: str) -> RunStore:
    """The runs of a sweep as a new process finds them; its parent is there."""
    uri = f"sqlite:///{database}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = open_experiment(client, uri, EXPERIMENT)
    runs = RunStore(client, experiment.experiment_id, sweep_id)
    runs.ensure(SWEEP_KEY, "a sweep", {}, {"role": "sweep"}, START_MS)
    return runs


def candidate(
    folder: Path,
    name: str,
    val_top1: float = 0.5,
    images: str = "the images",
    condition: RegisterIf = "always",
) -> Candidate:
    return Candidate(
        folder=folder, name=name, tags=TAGS, images=images, val_top1=val_top1, condition=condition
    )


def versions(client: MlflowClient, name: str) -> list[str]:
    return sorted(str(v.version) for v in client.search_model_versions(f"name = '{name}'"))


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return {k: str(v) for k, v in client.get_registered_model(name).aliases.items()}


def logged(runs: RunStore) -> list[LoggedModel]:
    return list(
        runs.client.search_logged_models(
            [runs.experiment_id],
            filter_string=f"tags.sweep = '{runs.sweep_id}' AND tags.key = '{SWEEP_KEY}'",
        )
    )


def outputs(runs: RunStore) -> list[str]:
    outputs = runs.client.get_run(runs.run_id(SWEEP_KEY)).outputs
    return [output.model_id for output in outputs.model_outputs] if outputs else []


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_registered_is_the_folder(database: Path, model: Path, tmp_path: Path) -> None:
    runs = runs_of(database, "s1")
    client, parent_id = runs.client, runs.run_id(SWEEP_KEY)
    values = {"val/top1": 0.9, "test/top1": 0.8, "test/top1_untuned": 0.7, "work/gmacs": 0.1}
    runs.log_metrics(SWEEP_KEY, points(values, START_MS, 0))
    assert ModelRegistry(runs).register(candidate(model, "net")) == "models:/net/1"

    version = client.get_model_version_by_alias("net", CHAMPION)
    own = {"images": "the images", "val_top1": "0.5", "weights": candidate(model, "net").weights}
    assert version.tags == {"sweep": "s1", **TAGS, **own}
    assert version.run_id == parent_id
    assert version.description == "lite0, 32 -> 64 px"
    (made,) = logged(runs)
    assert made.status == LoggedModelStatus.READY and made.params == TAGS
    assert json.loads(made.tags["mlflow.modelVersions"]) == [{"name": "net", "version": "1"}]
    assert {m.key: m.value for m in made.metrics or ()} == {
        key: value for key, value in values.items() if "top1" in key
    }
    assert outputs(runs) == [made.model_id]
    for key in values:
        assert len(client.get_metric_history(parent_id, key)) == 1

    uri = f"models:/net@{CHAMPION}"
    mlflow.set_tracking_uri(client.tracking_uri)
    mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    downloaded = contents(tmp_path)
    del downloaded[Path("registered_model_meta")]  # MLflow's own
    assert downloaded == contents(model)
    opened: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert opened.pretrained_cfg["label_names"] == list(CLASSES)
    loaded = mlflow.pyfunc.load_model(uri)
    assert loaded.predict(loaded.input_example)["label"].to_list() == ["green"]


def test_the_champion_before_is_the_previous_one(
    database: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps = [runs_of(database, sweep_id) for sweep_id in ("a1", "a2", "a3")]
    expected = [{CHAMPION: "1"}, {CHAMPION: "2", PREVIOUS: "1"}, {CHAMPION: "3", PREVIOUS: "2"}]
    for runs, wanted in zip(sweeps, expected, strict=True):
        registry = ModelRegistry(runs)
        registry.register(candidate(model, "three"))
        assert aliases(runs.client, "three") == wanted
        with monkeypatch.context() as patch:  # again: nothing is sent twice
            patch.setattr(runs.client, "log_model_artifacts", None)
            registry.register(candidate(model, "three"))
        assert aliases(runs.client, "three") == wanted  # no version is its own predecessor
    assert versions(sweeps[0].client, "three") == ["1", "2", "3"]


def test_a_name_that_mlflow_refuses_is_an_error(database: Path, model: Path) -> None:
    runs = runs_of(database, "refused")
    with pytest.raises(MlflowException, match="Invalid model name"):
        ModelRegistry(runs).register(candidate(model, "not/allowed"))


@pytest.mark.parametrize(
    ("before", "after", "condition", "expected"),
    [
        (("x", 0.6), ("x", 0.7), "better", {CHAMPION: "2", PREVIOUS: "1"}),
        (("x", 0.7), ("x", 0.6), "better", {CHAMPION: "1"}),
        (("x", 0.7), ("x", 0.7), "better", {CHAMPION: "1"}),
        (("x", 0.7), ("x", 0.6), "always", {CHAMPION: "2", PREVIOUS: "1"}),
        (("x", 0.6), ("x", 0.7), "never", {CHAMPION: "1"}),
        (("y", 0.6), ("x", 0.7), "better", {CHAMPION: "1"}),
    ],
)
@pytest.mark.parametrize("has_tags", [True, False], ids=["tagged", "of-an-earlier-version"])
def test_the_champion_is_the_best_on_val_of_the_same_images(
    database: Path,
    model: Path,
    before: tuple[str, float],
    after: tuple[str, float],
    condition: RegisterIf,
    expected: dict[str, str],
    has_tags: bool,
) -> None:
    name = content_hash([*before, *after, condition, has_tags])
    first, second = (runs_of(database, f"{name} {which}") for which in ("first", "second"))
    ModelRegistry(first).register(candidate(model, name, before[1], before[0]))
    if not has_tags:
        first.set_tags(SWEEP_KEY, {"images": before[0]})
        first.log_metrics(SWEEP_KEY, points({"val/top1": before[1]}, START_MS, 0))
        for tag in ("images", "val_top1"):
            first.client.delete_model_version_tag(name, "1", tag)
    said: list[str] = []
    registry = ModelRegistry(second, said.append)
    given = candidate(model, name, after[1], after[0], condition)
    for _ in range(2):
        registry.register(given)
    assert aliases(second.client, name) == expected
    is_same = before[0] == after[0]
    is_registered = condition != "never" and (expected[CHAMPION] == "2" or not is_same)
    assert versions(second.client, name) == (["1", "2"] if is_registered else ["1"])
    assert len(logged(second)) == 1
    is_told = condition == "better" and expected[CHAMPION] == "1"
    assert len(said) == (2 if is_told else 0)
    if is_told and is_same:
        assert f"not registered: version 1 of {name}, its champion, has val top-1 70.0 %" in said[0]
    elif is_told:
        assert f"registered as version 2 of {name}, whose champion stays version 1" in said[0]


def test_a_champion_stays_one_when_its_sweep_is_told_again(database: Path, model: Path) -> None:
    runs = runs_of(database, "told again")
    for _ in range(2):
        given = candidate(model, "told again", condition="better")
        assert ModelRegistry(runs).register(given) == "models:/told again/1"
    assert aliases(runs.client, "told again") == {CHAMPION: "1"}


@pytest.mark.parametrize("was_tagged", [True, False], ids=["tagged", "of-an-earlier-version"])
def test_a_sweep_that_is_extended_registers_anew_only_another_net(
    database: Path, model: Path, tmp_path: Path, was_tagged: bool
) -> None:
    name = f"extended {was_tagged}"
    runs, other = runs_of(database, name), tmp_path / "other"
    shutil.copytree(model, other)
    (other / "model.safetensors").write_bytes(b"other weights")
    said: list[str] = []

    def registered(folder: Path, val_top1: float, step: int) -> dict[str, str]:
        given = candidate(folder, name, val_top1, condition="better")
        ModelRegistry(runs_of(database, name), said.append).register(replace(given, step=step))
        return aliases(runs.client, name)

    assert registered(model, 0.6, 0) == {CHAMPION: "1"}
    if not was_tagged:
        runs.client.delete_model_version_tag(name, "1", "weights")
        (made,) = logged(runs)
        runs.client.delete_logged_model_tag(made.model_id, "weights")
    else:
        assert registered(model, 0.6, 1) == {CHAMPION: "1"}  # more to choose from, the same choice
        assert len(logged(runs)) == 1
    for _ in range(2):
        assert registered(other, 0.7, 2) == {CHAMPION: "2", PREVIOUS: "1"}
    assert len(logged(runs)) == 2 and len(outputs(runs)) == 2 and not said
    (other / "model.safetensors").write_bytes(b"a worse choice, of a view")
    assert registered(other, 0.5, 3) == {CHAMPION: "2", PREVIOUS: "1"}
    assert versions(runs.client, name) == ["1", "2"] and "not registered" in said[0]


@pytest.mark.parametrize("name", ["it's mine", 'a "net"', "50 % of `it`", "naïve"])
def test_a_name_may_hold_quotes(database: Path, model: Path, name: str) -> None:
    runs = runs_of(database, f"quotes {len(name)}")
    for _ in range(2):
        assert ModelRegistry(runs).register(candidate(model, name)) == f"models:/{name}/1"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_cut_off_anywhere_it_is_done_once(
    database: Path, model: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    """Killed before or after each step, the next process ends with what one alone would have."""
    name = f"cut-{step}-{after}"
    is_first = step == "create_registered_model"
    if not is_first:
        ModelRegistry(runs_of(database, f"former-{name}")).register(candidate(model, name))
    runs = runs_of(database, name)
    method = getattr(runs.client, step)

    def cut(*args: Any, **kwargs: Any) -> None:
        if after:
            method(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs.client, step, cut)
        with pytest.raises(Killed):
            ModelRegistry(runs).register(candidate(model, name))

    again = runs_of(database, name)
    uri = ModelRegistry(again).register(candidate(model, name))
    assert uri is not None
    number = uri.rpartition("/")[2]
    if is_first:
        assert (number, versions(again.client, name)) == ("1", ["1"])
        assert aliases(again.client, name) == {CHAMPION: "1"}
    else:
        assert (number, versions(again.client, name)) == ("2", ["1", "2"])
        assert aliases(again.client, name) == {CHAMPION: "2", PREVIOUS: "1"}
    (made,) = logged(again)
    assert made.status == LoggedModelStatus.READY
    stored = mlflow.artifacts.list_artifacts(
        artifact_uri=made.artifact_location, tracking_uri=again.client.tracking_uri
    )
    assert {Path(f.path).name for f in stored} == {p.name for p in model.iterdir()}
    assert outputs(again) == [made.model_id]
