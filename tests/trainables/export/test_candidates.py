"""Candidates are the nets themselves at each resolution, traced once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.trainables.export.test_portable_formats import alive, tiny
from trainables.export.candidates import set_resolution, write_candidates
from trainables.export.portable_formats import trace, write_onnx
from trainables.models import backbone, variants

LITE0 = variants.get("lite0")
SIDES = (32, 33, 37, 40, 46, 47)  # even and odd at every stride


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[int, onnx.ModelProto]:
    """The same net exported by itself at each resolution."""
    folder, net = tmp_path_factory.mktemp("traced"), tiny()
    for side in SIDES:
        write_onnx(folder / f"{side}.onnx", trace(net, side), {})
    return {side: onnx.load(folder / f"{side}.onnx") for side in SIDES}


@pytest.mark.parametrize("start", [32, 47])
def test_a_graph_is_turned_into_that_of_another_resolution(
    traced: dict[int, onnx.ModelProto], start: int
) -> None:
    for side in SIDES:
        model = onnx.ModelProto()
        model.CopyFrom(traced[start])
        set_resolution(model, side)
        wanted = onnx.ModelProto()
        wanted.CopyFrom(traced[side])
        del wanted.graph.value_info[:]
        assert model == wanted


@pytest.mark.parametrize("variant", ["lite0", "b0"])
def test_candidates_give_the_logits_of_their_net_at_each_resolution(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[torch.nn.Module] = []
    build = backbone.build

    def building(*args: object) -> torch.nn.Module:
        built.append(build(*args))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(backbone, "build", building)
    files = write_candidates(tmp_path, variant, (75, 32, 64, 32), 7)
    assert {res: path.name for res, path in files.items()} == {
        res: f"{variant}-{res}.onnx" for res in (32, 64, 75)
    }
    (net,) = built
    for res, path in files.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == ["N", 3, res, res]
        assert session.get_modelmeta().custom_metadata_map == {"variant": variant}
        x = torch.randn(2, 3, res, res, generator=torch.Generator().manual_seed(res))
        with torch.inference_mode():
            wanted = net(x).numpy()
        (logits,) = session.run(None, {"pixels": x.numpy()})
        assert logits.shape == (2, 7) and np.abs(wanted).max() > 0
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_a_candidate_has_the_nodes_of_a_trained_net(tmp_path: Path) -> None:
    """A bias that is zero, as before training, would be left out: the net would look faster."""
    net = alive(backbone.build(LITE0, 7), 32)
    torch.nn.init.normal_(net.classifier.bias)
    write_onnx(tmp_path / "trained.onnx", trace(net, 32), {})
    candidate = write_candidates(tmp_path, "lite0", [32], 7)[32]
    trained, measured = (onnx.load(p).graph for p in (tmp_path / "trained.onnx", candidate))
    assert [node.op_type for node in measured.node] == [node.op_type for node in trained.node]
    shapes = [{tuple(t.dims) for t in graph.initializer} for graph in (trained, measured)]
    assert shapes[0] == shapes[1]
