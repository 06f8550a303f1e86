"""Quantise the served net to eight bits, and say what that net is worth beside the float one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sweeps.final_model.int8_net import INT8_FILE, Int8Net
from sweeps.final_model.outcome import Outcome, ServedModel
from sweeps.planning.plan import Plan
from sweeps.selection.row_latency import setting_from
from trainables.data.image_set import ImageSet
from trainables.data.view_cache import ViewCache
from trainables.evaluation.confidence import paired_difference
from trainables.evaluation.inference import batches_of
from trainables.evaluation.metrics import predicted, score
from trainables.export.int8_format import write_int8
from trainables.machine import available_cores
from trainables.models import variants
from trainables.profiling import onnx_latency

CALIBRATION_IMAGES = 256  # of train, whose order mixes the classes
BATCH = 32

Quantise = Callable[[Path], Int8Net]
"""Writes ``model-int8.onnx`` beside the given float file, and judges it."""


def quantiser(
    plan: Plan, outcome: Outcome, served_model: ServedModel, images: ImageSet
) -> Quantise | None:
    """Make the function that quantises the chosen net; None: it is not asked for.

    Ranges are read off train, in the test transform. The net is then judged on test, which the
    float net has been read on: nothing is chosen by it.

    Args:
        outcome: with what the float net gives test.
    """
    if not plan.spec.output.int8:
        return None
    cache = ViewCache(images=images, cache=plan.spec.cache, threads=available_cores())
    transform = served_model.cell.spec.transform

    def quantise(float_file: Path) -> Int8Net:
        path = float_file.with_name(INT8_FILE)
        view = cache.view("train", transform, most=CALIBRATION_IMAGES)
        write_int8(path, float_file, _pixels(view, served_model))
        test = next(p for p in outcome.predictions if p.split == "test")
        logits = _logits(path, cache.view("test", transform), served_model)
        hits = predicted(logits).numpy() == test.labels
        difference, error = paired_difference(hits, test.predicted == test.labels)
        setting = setting_from(plan.spec.latency, runtime="onnx")
        latencies = onnx_latency.measure_files({f.name: f for f in (float_file, path)}, setting)
        return Int8Net(
            calibrated_on=len(view),
            bytes=path.stat().st_size,
            float_bytes=float_file.stat().st_size,
            test=score(logits, torch.tensor(test.labels), "test"),
            difference=difference,
            error=error,
            conditions=replace(onnx_latency.conditions(setting), precision="int8"),
            latency=latencies[path.name],
            float_latency=latencies[float_file.name],
        )

    return quantise


def _pixels(view: np.ndarray, served_model: ServedModel) -> Iterator[np.ndarray]:
    """Yield a view as normalised batches (B, 3, R, R) float32."""
    preprocessing = variants.preprocessing(variants.get(served_model.cell.variant))
    for batch in batches_of(view, BATCH, preprocessing, torch.device("cpu")):
        yield batch.contiguous().numpy()


def _logits(path: Path, view: np.ndarray, served_model: ServedModel) -> torch.Tensor:
    """Run an ONNX file over a view: (N, C) float32."""
    net = onnx_latency.open_net(path, available_cores())
    batches = [net.run(pixels) for pixels in _pixels(view, served_model)]
    return torch.from_numpy(np.concatenate(batches))
