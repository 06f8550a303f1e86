"""Write the finished net once more with weights and activations of eight bits, for ONNX Runtime.

Post-training static quantisation, as ONNX Runtime does it (Jacob et al., arXiv:1712.05877): the
range of every activation is read off images that were trained on, no weight is trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trainables.export.portable_formats import PIXELS
from trainables.storage.replacing import replacing

# Otherwise ONNX Runtime calls its makers, and keeps an id of the device in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

# What ONNX Runtime's own preparation leaves in a file. A net of the exporter needs none: its norms
# are folded into the convolutions and its shapes are known. Without it, a warning says to prepare.
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


def write_int8(path: Path, float_file: Path, pixels: Iterable[np.ndarray]) -> None:
    """Write ``path`` with the net of ``float_file`` quantised; inputs and outputs stay float32.

    Weights are rounded for each output channel. They take seven of the eight bits: processors
    without instructions for products of bytes (VNNI) add two such products in 16 bits, where those
    of eight bits overflow without a word.

    Args:
        path: one file; the weights of a net of any size are in it.
        float_file: from :func:`trainables.export.portable_formats.write_onnx`.
        pixels: batches of normalised images, (B, 3, R, R) float32, that ranges are read off.
    """
    net = onnx.load(float_file)
    metadata = [(prop.key, prop.value) for prop in net.metadata_props]
    net.metadata_props.add(key=PREPARED[0], value=PREPARED[1])
    with replacing(path) as temporary:
        quantize_static(
            net,
            temporary,
            _Batches(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(temporary)
        del quantised.metadata_props[:]
        for key, value in metadata:
            quantised.metadata_props.add(key=key, value=value)
        temporary.write_bytes(quantised.SerializeToString(deterministic=True))


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Hands batches on one by one, as ONNX Runtime asks for them."""

    def __init__(self, pixels: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(pixels)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {PIXELS: batch}
