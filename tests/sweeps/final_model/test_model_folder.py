"""The model's folder appears whole, or not at all."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from sweeps.final_model import model_folder
from sweeps.final_model.outcome import ServedModel
from sweeps.final_model.served_latency import ServedLatency
from sweeps.planning.plan import Plan
from tests.factories import HYPER, a_served_latency, plan_of, spec_with
from trainables.errors import SweepError
from trainables.export.mirror_mark import MIRRORS
from trainables.models import backbone, variants
from trainables.models.mirrored import MirrorAveraged
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_tensors

PLAN = plan_of(spec_with(variants=("lite0",), train_res=(32,), test_res=(48,)))
TRUNK = PLAN.trunk(PLAN.points[0], HYPER)
MODEL = ServedModel(cell=PLAN.cell(TRUNK, 1, 48, 1.0), arm="none", refit=False)


@pytest.fixture
def store(tmp_path: Path) -> Store[Path]:
    """A store with the weights of the trunk."""
    store = Store(tmp_path / "store")
    net = backbone.build(variants.get("lite0"), len(PLAN.classes))
    write_tensors(store.trunk(TRUNK.key) / "trunk.safetensors", net.state_dict())
    return store


def measured(onnx: Path) -> ServedLatency:
    assert onnx.read_bytes() == b"onnx", "it is measured once it is written"
    return a_served_latency(2.5)


def write(
    folder: Path,
    store: Store[Path],
    monkeypatch: pytest.MonkeyPatch,
    *,
    check: Any,
    plan: Plan = PLAN,
    served_model: ServedModel = MODEL,
) -> dict[str, str]:
    """Write the folder without the slow exports; return what the ONNX file would say of itself."""
    metadata: dict[str, str] = {}

    def trace(model: nn.Module, test_res: int) -> str:
        assert not model.training and test_res == 48
        assert isinstance(model, MirrorAveraged) == (served_model.arm == "none_flip")
        return "traced"

    def graph_of(model: nn.Module, variant: str, test_res: int, program: str) -> str:
        assert (variant, test_res, program) == ("lite0", 48, "traced")
        return "graph"

    def write_onnx(path: Path, graph: str, entries: dict[str, str]) -> None:
        assert graph == "graph"
        metadata.update(entries)
        path.write_bytes(b"onnx")

    monkeypatch.setattr(model_folder, "trace", trace)
    monkeypatch.setattr(model_folder, "graph_of", graph_of)
    monkeypatch.setattr(model_folder, "write_onnx", write_onnx)
    monkeypatch.setattr(model_folder, "write_program", lambda path, *_: path.write_bytes(b"pt2"))
    monkeypatch.setattr(model_folder, "check", check)
    picture = folder.parent / "heatmap.png"
    picture.write_bytes(b"picture")
    monkeypatch.setattr(model_folder, "measure_served", lambda path, _: measured(path))
    exported = model_folder.write_model(
        folder,
        plan,
        served_model,
        store,
        card=lambda exported: f"# Card {exported.served_latency.latency.latency_ms}",
        picture=picture,
    )
    assert exported.served_latency.latency.latency_ms == 2.5 and exported.int8 is None
    return metadata


def test_every_form_of_the_model_is_in_the_folder(
    store: Store[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    metadata = write(folder, store, monkeypatch, check=lambda *_: None)
    for name in ("config.json", "labels.txt", "model.onnx", "model.pt2", "MLmodel", "heatmap.png"):
        assert (folder / name).is_file(), name
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Card 2.5"
    assert load_file(folder / "model.safetensors").keys()
    assert metadata["variant"] == "lite0"
    assert json.loads(metadata["labels"]) == list(PLAN.classes)
    assert len(json.loads(metadata["mean"])) == len(json.loads(metadata["std"])) == 3


@pytest.mark.parametrize("arm", ["none", "none_flip"])
def test_an_average_over_the_mirror_image_is_exported_and_told(
    store: Store[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    """timm's form cannot have it: there it is told, in config.json; the ONNX file says it too."""
    folder, checked = tmp_path / "model", list[bool]()

    def check(_onnx: Path, _program: Path, model: nn.Module, _res: int) -> None:
        checked.append(isinstance(model, MirrorAveraged))

    model = replace(MODEL, arm=arm)
    metadata = write(folder, store, monkeypatch, check=check, served_model=model)
    assert (MIRRORS in metadata) == (arm == "none_flip")
    assert checked == [arm == "none_flip"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config.get(MIRRORS, False) == (arm == "none_flip")
    net = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert net.state_dict().keys() == load_file(folder / "model.safetensors").keys()


def test_a_form_that_disagrees_leaves_no_folder(
    store: Store[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*_: object) -> None:
        raise SweepError("The logits differ.")

    with pytest.raises(SweepError, match="differ"):
        write(tmp_path / "model", store, monkeypatch, check=disagree)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_form_for_openvino_is_compared_with_the_onnx_file(
    store: Store[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    compared: list[tuple[Path, object]] = []

    def write_openvino(path: Path, onnx_file: Path) -> None:
        assert onnx_file.read_bytes() == b"onnx"
        path.write_text("<net/>")

    monkeypatch.setattr(model_folder, "write_openvino", write_openvino)
    monkeypatch.setattr(
        model_folder, "open_net", lambda path, _: SimpleNamespace(run=f"run of {path.name}")
    )
    monkeypatch.setattr(model_folder, "check_openvino", lambda *given: compared.append(given))
    plan = replace(PLAN, spec=spec_with(PLAN.spec, openvino=wanted))
    write(tmp_path / "model", store, monkeypatch, check=lambda *_: None, plan=plan)
    assert (tmp_path / "model" / "model.xml").exists() == wanted
    assert [(path.name, run) for path, run in compared] == (
        [("model.xml", "run of model.onnx")] if wanted else []
    )


def test_the_example_is_an_image_of_its_own() -> None:
    image = Image.open(io.BytesIO(model_folder._example_image()))
    assert image.mode == "RGB" and image.width == image.height == 64
