"""Measure the latency of ONNX files in ONNX Runtime, which is all that this needs, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainables.errors import UserError
from trainables.machine import cpu_name
from trainables.profiling.latency import (
    Call,
    Conditions,
    Latency,
    Setting,
    measure_in_turns,
)

# Otherwise ONNX Runtime calls its makers, and keeps an id of the device in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


def conditions(setting: Setting) -> Conditions:
    """Name what :func:`measure_files` measures with here."""
    return Conditions(
        runtime="onnx",
        version=onnxruntime.__version__,
        device=cpu_name(),
        precision="float32",
        threads=setting.threads,
        batch=setting.batch,
        throughput_batch=setting.throughput_batch,
    )


def measure_files(files: Mapping[str, Path], setting: Setting) -> dict[str, Latency]:
    """Measure the ONNX files, which take turns; all of them are loaded at once.

    Raises:
        UserError: one is no net that ONNX Runtime runs.
    """
    nets = {name: open_net(path, setting.threads) for name, path in files.items()}
    return measure_in_turns(nets, setting.batch, setting.throughput_batch)


@dataclass(frozen=True)
class OnnxNet:
    """An ONNX file that ONNX Runtime has loaded: makes the calls that run so many images."""

    session: Any
    metadata: Mapping[str, str]
    """What the file says of itself."""
    res: int
    """Side of its images, px."""
    classes: int
    _pixels: str = field(repr=False)

    def __call__(self, batch: int) -> Call:
        """Make the call that runs ``batch`` black images; what they show costs no time."""
        images = np.zeros((batch, 3, self.res, self.res), dtype=np.float32)
        return lambda: self.run(images)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Give the logits of normalised images: (N, 3, R, R) float32 -> (N, C) float32."""
        (logits,) = self.session.run(None, {self._pixels: images})
        return np.asarray(logits)


def open_net(path: Path, threads: int) -> OnnxNet:
    """Load an ONNX file of images (N, 3, R, R) float32 -> logits (N, C).

    Raises:
        UserError: it is none, or ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Else the threads of a net that has run wait for its next run at full speed, for longer than a
    # turn lasts, and take the cores from the net whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # an error is raised, and need not be printed as well
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many types, all of ONNX Runtime's own
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is no ONNX file that ONNX Runtime {onnxruntime.__version__} can load "
            f"({reason}): write it again."
        ) from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == len(outputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or not isinstance(shape[2], int) or shape[2] != shape[3]:
        raise UserError(f"{path} takes no images of a fixed size (N, 3, R, R): give another.")
    return OnnxNet(
        session=session,
        metadata=session.get_modelmeta().custom_metadata_map,
        res=shape[2],
        classes=outputs[0].shape[-1],
        _pixels=inputs[0].name,
    )
