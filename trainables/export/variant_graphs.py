"""ONNX graphs of nets: an EfficientNet is exported once, for all weights and resolutions.

To export a net takes seconds to minutes, to put other weights into its graph takes none. At another
resolution only the padding of strided convolutions differs. Of other nets that is not known: they
are exported at each.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import onnx
import torch
from onnxscript import ir
from torch import nn

from trainables.export.portable_formats import export_onnx, folded, trace
from trainables.models import variants

EXPORTED_RES = 64  # px
Shapes = tuple[tuple[str, torch.Size], ...]  # of a net's weights, by name

_graphs: dict[tuple[str, Shapes], onnx.ModelProto] = {}  # without weights, which are large


def graph_of(
    net: nn.Module, variant: str, res: int, program: torch.export.ExportedProgram | None = None
) -> ir.Model:
    """Give the graph that an export of the net at a resolution would have, and its weights.

    Args:
        net: of the variant; it is left as it is.
        res: px.
        program: the net's trace, of an EfficientNet at any resolution, if there is one; it is left
            as it is. To trace a net again takes half of an export's time.
    """
    if not variants.get(variant).is_of_family:
        return export_onnx(program or trace(net, res))
    plain = folded(net)
    state = plain.state_dict()
    key = variant, tuple((name, tensor.shape) for name, tensor in state.items())
    if key not in _graphs:
        if program is None or any(_is_zero_bias(name, tensor) for name, tensor in state.items()):
            program = _trace_with_biases(plain)
        _graphs[key] = _without_weights(program, state)
    graph = onnx.ModelProto()
    graph.CopyFrom(_graphs[key])
    set_resolution(graph, res)
    for tensor in graph.graph.initializer:
        if tensor.name in state:
            tensor.raw_data = state[tensor.name].numpy().tobytes()
    return ir.from_proto(graph)


def _is_zero_bias(name: str, tensor: torch.Tensor) -> bool:
    """Say whether a tensor is a bias that is zero, as before training: it would be left out."""
    return name.endswith("bias") and not tensor.any()


def _trace_with_biases(plain: nn.Module) -> torch.export.ExportedProgram:
    """Trace a copy of the net in which no bias is zero."""
    copied = copy.deepcopy(plain)
    for name, parameter in copied.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.01)
    return trace(copied, EXPORTED_RES)


def _without_weights(
    program: torch.export.ExportedProgram, state: Mapping[str, torch.Tensor]
) -> onnx.ModelProto:
    """Export a net; of its weights only names, shapes and types are kept."""
    graph: onnx.ModelProto = ir.to_proto(export_onnx(program))
    for tensor in graph.graph.initializer:
        if tensor.name in state:
            tensor.ClearField("raw_data")
    return graph


def set_resolution(model: onnx.ModelProto, res: int) -> None:
    """Turn an EfficientNet's graph into that of another resolution, in place.

    Convolutions are padded as TensorFlow's "same" does, which depends on the side of their maps
    where they stride. Shapes of values in between are left out; they follow from the input's.
    """
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = res
    del model.graph.value_info[:]
    side = res
    for node in model.graph.node:
        found = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Conv" and found["strides"].ints[0] > 1:
            kernel, stride = found["kernel_shape"].ints[0], found["strides"].ints[0]
            outputs = -(-side // stride)
            total = max((outputs - 1) * stride + kernel - side, 0)
            found["pads"].ints[:] = [total // 2] * 2 + [total - total // 2] * 2
            side = outputs
