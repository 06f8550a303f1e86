"""Write ONNX files of nets that a sweep may choose, with random weights, to measure what they take.

Latency depends on variant, resolution and number of classes, not on weights. A variant is traced
once: at another resolution only the padding of its strided convolutions differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import nn

from trainables.export.portable_formats import trace, write_onnx
from trainables.models import backbone, variants
from trainables.storage.replacing import replacing

VARIANT = "variant"  # the metadata property that names the variant


def write_candidates(
    folder: Path, variant: str, resolutions: Sequence[int], classes: int
) -> dict[int, Path]:
    """Write ``<variant>-<resolution>.onnx`` into ``folder`` for each resolution (px).

    They are what :func:`write_onnx` writes of a net with random weights.

    Returns:
        The files, by resolution.
    """
    files = {res: folder / f"{variant}-{res}.onnx" for res in sorted(set(resolutions))}
    first = min(files)
    model = backbone.build(variants.get(variant), classes).eval()
    _make_biases_count(model)
    write_onnx(files[first], trace(model, first), {VARIANT: variant})
    traced = onnx.load(files[first], load_external_data=False)
    for res, path in files.items():
        if res != first:
            set_resolution(traced, res)
            with replacing(path) as temporary:
                temporary.write_bytes(traced.SerializeToString(deterministic=True))
    return files


def _make_biases_count(model: nn.Module) -> None:
    """Draw all biases at random: those that are zero would be left out of the graph."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.01)


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
