"""Measure the latency of variants at their resolutions, in the runtime that is to serve them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainables.export import openvino_format
from trainables.export.candidates import write_candidates
from trainables.machine import available_cores
from trainables.models.device import pick_device
from trainables.profiling import onnx_latency, openvino_latency, torch_latency
from trainables.profiling.cost import cost
from trainables.profiling.latency import (
    Conditions,
    Latency,
    Net,
    Runtime,
    Setting,
    measure_in_turns,
)
from trainables.profiling.torch_latency import NetAtRes

FILE_READERS: Mapping[Runtime, Callable[[Path, int], Net]] = {  # of ONNX files
    "onnx": onnx_latency.open_net,
    "openvino": openvino_format.open_net,
}
MAX_WEIGHTS_M = 500.0  # millions of weights, of all nets that are loaded at a time: 2 GB


def default_runtime() -> Runtime:
    """Name the runtime that serves best here: ONNX Runtime on a CPU, compiled PyTorch on a GPU."""
    return "torch-compile" if pick_device().type == "cuda" else "onnx"


def setting_of(
    runtime: Runtime | None, threads: int | None, batch: int, throughput_batch: int
) -> Setting:
    """Fill in what was left open: the runtime that serves best here, and all cores."""
    return Setting(
        runtime=runtime or default_runtime(),
        threads=threads or available_cores(),
        batch=batch,
        throughput_batch=throughput_batch,
    )


def conditions(setting: Setting) -> Conditions:
    """Name what :func:`measure` measures with here.

    Raises:
        UserError: the runtime is not installed.
    """
    if setting.runtime == "onnx":
        return onnx_latency.conditions(setting)
    if setting.runtime == "openvino":
        return openvino_latency.conditions(setting)
    return torch_latency.conditions(setting)


def measure(
    nets: Sequence[NetAtRes],
    classes: int,
    setting: Setting,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[NetAtRes, Latency]:
    """Measure the nets with random weights and warm, those that are loaded together in turns.

    Args:
        nets: variants, and the side of the images in px.
        classes: outputs of the classifier.
        progress: called with the nets measured, and all of them.

    Raises:
        UserError: the runtime cannot run here.
    """
    latencies: dict[NetAtRes, Latency] = {}
    for group in _groups(sorted(set(nets)), classes):
        with open_nets(group, classes, setting) as opened:
            latencies |= measure_in_turns(opened, setting.batch, setting.throughput_batch)
        progress(len(latencies), len(set(nets)))
    return latencies


@contextmanager
def open_nets(
    nets: Sequence[NetAtRes], classes: int, setting: Setting
) -> Iterator[Mapping[NetAtRes, Net]]:
    """Load nets with random weights into the runtime; see :func:`measure`."""
    if setting.runtime not in FILE_READERS:
        with torch_latency.open_nets(nets, classes, setting) as opened:
            yield opened
        return
    sessions: dict[NetAtRes, Net] = {}
    for variant in dict.fromkeys(variant for variant, _ in nets):
        resolutions = [res for name, res in nets if name == variant]
        with tempfile.TemporaryDirectory(prefix="fixres-latency-") as folder:
            for res, path in write_candidates(Path(folder), variant, resolutions, classes).items():
                sessions[variant, res] = FILE_READERS[setting.runtime](path, setting.threads)
    yield sessions


def _groups(nets: Sequence[NetAtRes], classes: int) -> Iterator[list[NetAtRes]]:
    """Divide the nets, in order, into groups of no more than MAX_WEIGHTS_M, or of one net."""
    group: list[NetAtRes] = []
    weights = 0.0
    for variant, res in nets:
        own = cost(variant, res, classes).params_m
        if group and weights + own > MAX_WEIGHTS_M:
            yield group
            group, weights = [], 0.0
        group.append((variant, res))
        weights += own
    if group:
        yield group
