"""Latency is measured on a machine with ONNX Runtime alone, and chosen by elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sweeps.measure_latency import main
from trainables.export.mirror_mark import MIRRORS
from trainables.profiling.latency_file import read_latency_file

ROOT = Path(__file__).resolve().parents[2]
MODULES = {  # packages whose modules are called otherwise
    "pillow": "PIL",
    "nvidia-ml-py": "pynvml",
    "scikit-learn": "sklearn",
}
SERVING = """
import sys
for name in sys.argv.pop(1).split():
    sys.modules[name] = None  # importing it is an ImportError
from sweeps.measure_latency import main
sys.exit(main(sys.argv[1:]))
"""


def a_net(path: Path, res: int, classes: int = 5, variant: str | None = "lite0") -> None:
    """An ONNX file as a candidate is: the mean of each channel, and a linear layer."""
    weights = np.zeros((3, classes), dtype=np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, res, res])
    found = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(
        nodes, "net", [given], [found], [numpy_helper.from_array(weights, "weights")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if variant:
        helper.set_model_props(model, {"variant": variant})
    onnx.save(model, path)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for res in (48, 96):
        a_net(folder / f"lite0-{res}.onnx", res)
    return folder


@pytest.mark.parametrize(("runtime", "name"), [("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_the_runtime_is_all_it_takes(models: Path, tmp_path: Path, runtime: str, name: str) -> None:
    """Without any other of this project's packages, in a folder that is not the project's."""
    if runtime == "openvino":
        pytest.importorskip("openvino.properties", reason="OpenVINO is not installed")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [entry.partition(">")[0].partition("[")[0] for entry in project["dependencies"]]
    blocked = {MODULES.get(name, name) for name in wanted}
    blocked -= {"numpy", "onnxruntime" if runtime == "onnx" else ""}
    assert {"torch", "timm", "ray", "mlflow", "onnx", "tyro"} <= blocked
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ("--out", "latency.json", "--runtime", runtime)
    done = subprocess.run(
        [sys.executable, "-c", SERVING, " ".join(blocked), str(models), *options],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "lite0      48 px" in done.stdout and f"; {name} " in done.stdout
    found = read_latency_file(tmp_path / "latency.json")
    assert found.conditions.runtime == runtime
    assert [(n.variant, n.test_res, n.classes) for n in found.nets] == [
        ("lite0", 48, 5), ("lite0", 96, 5)
    ]  # fmt: skip


def test_what_was_measured_is_written(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    other = onnx.load(models / "lite0-96.onnx")
    other.metadata_props.add(key=MIRRORS, value="true")
    onnx.save(other, models / "lite0-96.onnx")
    options = ("--threads", "1", "--batch", "3", "--throughput-batch", "4")
    assert main([str(models), "--out", str(out), *options]) == 0
    written = json.loads(out.read_text())
    conditions = written["conditions"]
    assert (conditions["runtime"], conditions["threads"], conditions["batch"]) == ("onnx", 1, 3)
    assert conditions["throughput_batch"] == 4 and conditions["device"]
    assert [net["mirrors"] for net in written["nets"]] == [False, True]
    for net in written["nets"]:
        latency = net["latency"]
        assert 0 < latency["low_ms"] <= latency["latency_ms"] <= latency["high_ms"]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["latency.json"]


@pytest.mark.parametrize(
    ("folder", "options", "words"),
    [
        ("nowhere", (), "nowhere is no folder"),
        ("empty", (), "empty has no ONNX files"),
        ("models", ("--threads", "0"), "--threads 0 is out of bounds"),
        ("models", ("--throughput-batch", "-1"), "--throughput-batch -1 is out of bounds"),
        ("models", ("--out", "nowhere/latency.json"), "is in no folder that exists"),
        ("models", ("--out", "empty"), "--out empty is a folder"),
        ("broken", (), "bad.onnx is no ONNX file that ONNX Runtime"),
        ("nameless", (), "model.onnx does not say which variant it is"),
    ],
)
def test_bad_input_is_one_sentence(
    models: Path,
    tmp_path: Path,
    folder: str,
    options: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "broken", "nameless"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "bad.onnx").write_bytes(b"no net")
    a_net(tmp_path / "nameless" / "model.onnx", 48, variant=None)
    assert main([str(tmp_path / folder), "--out", "latency.json", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert not (tmp_path / "latency.json").exists()


def test_a_runtime_that_is_not_installed_is_named(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main([str(models), "--out", str(models / "x.json"), "--runtime", "openvino"]) == 2
    said = capsys.readouterr().err
    assert "OpenVINO, which is not installed: pip install" in said and said.count("\n") == 1


def test_every_option_is_explained_in_the_docs() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    for name in ("--runtime", "--threads", "--batch", "--throughput-batch", "--out"):
        assert f"`{name}" in page
