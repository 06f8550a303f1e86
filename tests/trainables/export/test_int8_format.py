"""The net in eight bits: the float net's answers up to rounding, on any processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trainables.export.int8_format import write_int8

RES = 8
METADATA = {"labels": '["a", "b"]', "crop_pct": "1.0"}


def a_net(path: Path, weight: np.ndarray) -> Path:
    """A net of one convolution, its activation and the mean over the map."""
    shapes: dict[str, list[str | int | None]] = {
        "pixels": ["N", 3, RES, RES],
        "logits": ["N", len(weight)],
    }
    pixels, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    nodes = [
        helper.make_node("Conv", ["pixels", "weight"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("ReduceMean", ["active", "axes"], ["logits"], keepdims=0),
    ]
    held = [
        numpy_helper.from_array(weight.astype(np.float32), "weight"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    graph = helper.make_graph(nodes, "net", [pixels], [logits], held)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(net, METADATA)
    onnx.save(net, path)
    return path


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"pixels": pixels})[0])


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 3, RES, RES)).astype(np.float32)


def equal_weights(_: np.random.Generator) -> np.ndarray:
    """Products that all have one sign: two of full size do not fit into 16 bits together."""
    return np.ones((4, 3, 3, 3))


def uneven_channels(rng: np.random.Generator) -> np.ndarray:
    """One scale for all channels would round the small ones to nothing."""
    return rng.normal(size=(4, 3, 3, 3)) * np.array([1, 0.1, 0.02, 0.02])[:, None, None, None]


@pytest.mark.parametrize("weights", [equal_weights, uneven_channels])
def test_logits_are_the_float_nets_up_to_rounding(
    tmp_path: Path, pixels: np.ndarray, weights: Callable[[np.random.Generator], np.ndarray]
) -> None:
    weight = weights(np.random.default_rng(1))
    if weights is equal_weights:
        pixels = 1 - 0.2 * np.random.default_rng(2).random(pixels.shape, np.float32)
    plain = a_net(tmp_path / "model.onnx", weight)
    write_int8(tmp_path / "model-int8.onnx", plain, np.split(pixels, 4))
    expected, found = (run(tmp_path / f"model{kind}.onnx", pixels) for kind in ("", "-int8"))
    step = expected.max() / 255  # all channels of a map share the scale of its activations
    assert (np.abs(found - expected).max(axis=0) < 0.03 * expected.max(axis=0) + step).all()
    assert np.abs(found - expected).max() > 0, "it is not quantised"


def test_the_file_says_what_the_float_file_says(tmp_path: Path, pixels: np.ndarray) -> None:
    plain = a_net(tmp_path / "model.onnx", np.ones((2, 3, 3, 3)))
    before = plain.read_bytes()
    for name in ("one", "two"):
        write_int8(tmp_path / f"{name}.onnx", plain, [pixels[:32], pixels[32:]])
    assert plain.read_bytes() == before
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    quantised = onnx.load(tmp_path / "one.onnx")
    assert {prop.key: prop.value for prop in quantised.metadata_props} == METADATA
    (kernel,) = [held for held in quantised.graph.initializer if held.dims == [2, 3, 3, 3]]
    assert kernel.data_type == TensorProto.INT8
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model.onnx",
        "one.onnx",
        "two.onnx",
    ]


def test_nothing_is_said_of_it(
    tmp_path: Path,
    pixels: np.ndarray,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = a_net(tmp_path / "model.onnx", np.ones((2, 3, 3, 3)))
    write_int8(tmp_path / "model-int8.onnx", plain, [pixels])
    assert not caplog.records and "".join(capfd.readouterr()) == ""
