"""A variant's graph is that of its net's own export, at each resolution."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnxscript import ir

from tests.trainables.export.test_portable_formats import alive, tiny
from trainables.export import variant_graphs
from trainables.export.portable_formats import (
    check,
    export_onnx,
    trace,
    write_onnx,
    write_program,
)
from trainables.export.variant_graphs import graph_of, set_resolution
from trainables.models import backbone, variants
from trainables.models.mirrored import MirrorAveraged

pytestmark = pytest.mark.usefixtures("tiny_known")

SIDES = (32, 33, 37, 40, 46, 47)  # even and odd at every stride


def proto_of(graph: ir.Model) -> onnx.ModelProto:
    """What would be written, but for the shapes of values in between."""
    proto: onnx.ModelProto = ir.to_proto(graph)
    del proto.graph.value_info[:]
    return proto


def exported(net: torch.nn.Module, side: int) -> onnx.ModelProto:
    """The net exported by itself."""
    return proto_of(export_onnx(trace(net, side)))


@pytest.fixture(scope="module")
def traced() -> dict[int, onnx.ModelProto]:
    return {side: exported(tiny(), side) for side in SIDES}


@pytest.mark.parametrize("start", [32, 47])
def test_a_graph_is_turned_into_that_of_another_resolution(
    traced: dict[int, onnx.ModelProto], start: int
) -> None:
    for side in SIDES:
        model = onnx.ModelProto()
        model.CopyFrom(traced[start])
        set_resolution(model, side)
        is_same = model == traced[side]
        assert is_same


@pytest.mark.parametrize("variant", ["lite0", "b0"])
def test_other_weights_make_the_graph_that_their_net_is_exported_to(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = alive(backbone.build(variants.get(variant), 7), 32)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    is_same = proto_of(graph_of(net, variant, 75)) == exported(net, 75)
    assert is_same  # as a name: pytest would take minutes to tell the difference
    monkeypatch.setattr(variant_graphs, "export_onnx", None)  # once is enough
    torch.nn.init.zeros_(net.classifier.bias)
    zeroed = proto_of(graph_of(net, variant, 75))
    (bias,) = (t for t in zeroed.graph.initializer if t.name == "classifier.bias")
    assert not any(bias.raw_data)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_trace_that_there_is_serves_unless_a_bias_is_missing_in_it(
    has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_graphs, "_graphs", {})
    net = tiny()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    if not has_bias:
        torch.nn.init.zeros_(net.classifier.bias)
    program, traces = trace(net, 40), list[int]()

    def traced_again(net: torch.nn.Module, res: int) -> torch.export.ExportedProgram:
        traces.append(res)
        return trace(net, res)

    monkeypatch.setattr(variant_graphs, "trace", traced_again)
    proto = proto_of(graph_of(net, "tiny", 75, program))
    assert len(traces) == (not has_bias)
    (bias,) = (t for t in proto.graph.initializer if t.name == "classifier.bias")
    assert any(bias.raw_data) == has_bias
    is_same = not has_bias or proto == exported(net, 75)
    assert is_same


def test_an_average_over_the_mirror_image_is_in_the_graph_at_each_resolution(
    tmp_path: Path,
) -> None:
    net = tiny()
    model = MirrorAveraged(net)
    for side in (40, 75):
        program = trace(model, side)
        onnx_file, program_file = tmp_path / f"{side}.onnx", tmp_path / f"{side}.pt2"
        write_onnx(onnx_file, graph_of(model, "tiny", side, program), {})
        write_program(program_file, program)
        check(onnx_file, program_file, model, side)
        x = torch.randn(3, 3, side, side)
        (found,) = onnxruntime.InferenceSession(onnx_file).run(None, {"pixels": x.numpy()})
        with torch.no_grad():
            plain, mirrored = net(x), net(x.flip(3))
        torch.testing.assert_close(
            torch.tensor(found), (plain + mirrored) / 2, rtol=1e-4, atol=1e-4
        )
        assert (plain - mirrored).abs().max() > 1e-2
