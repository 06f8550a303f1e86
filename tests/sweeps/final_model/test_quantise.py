"""The net in eight bits is judged on test, beside the float net and by the file that is written."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sweeps.final_model import quantise
from sweeps.final_model.outcome import ServedModel
from sweeps.planning.plan import Plan
from tests.factories import HYPER, a_row, outcome_of, plan_of, spec_with
from tests.sweeps.final_model.image_tables import noise
from trainables.fixres.predictions import Predictions
from trainables.models import variants
from trainables.profiling import onnx_latency
from trainables.profiling.latency import Latency

RES = 64  # that of the folder's net


def a_plan(*, int8: bool) -> Plan:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(RES,), int8=int8)
    return plan_of(replace(spec, latency=replace(spec.latency, latency_threads=1)))


def served(plan: Plan) -> ServedModel:
    cell = plan.cell(plan.trunk(plan.points[0], HYPER), 1, RES, 1.0)
    return ServedModel(cell=cell, arm="none", refit=False)


def logits_of(file: Path, view: np.ndarray) -> np.ndarray:
    """The logits of a view as a user of the file would compute them."""
    preprocessing = variants.preprocessing(variants.get("lite0"))
    scaled = view.astype(np.float64) / 255
    pixels = ((scaled - preprocessing.mean) / preprocessing.std).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": pixels.astype(np.float32)})[0])


def test_a_net_that_is_not_asked_for_is_not_made() -> None:
    plan, outcome = a_plan(int8=False), outcome_of([a_row(9)])
    images: Any = None
    assert quantise.quantiser(plan, outcome, served(plan), images) is None


def test_it_is_compared_with_the_float_net_on_test(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = {
        split: np.stack([noise(RES, RES, seed=100 * n + i) for i in range(40)])
        for n, split in enumerate(("train", "test"))
    }
    asked: list[tuple[str, int | None]] = []

    class Views:
        def __init__(self, **_: object) -> None:
            pass

        def view(self, split: str, transform: Any, *, most: int | None = None) -> np.ndarray:
            assert transform.test_res == RES
            asked.append((split, most))
            return views[split]

    latency = Latency(latency_ms=1.0, low_ms=0.9, high_ms=1.1, runs=9, images_s=1e3)
    monkeypatch.setattr(quantise, "ViewCache", Views)
    monkeypatch.setattr(
        onnx_latency, "measure_files", lambda files, _: dict.fromkeys(files, latency)
    )
    plain = Path(shutil.copy(folder / "model.onnx", tmp_path))
    by_float = logits_of(plain, views["test"]).argmax(axis=1)
    labels = np.where(np.arange(40) % 4 > 0, by_float, (by_float + 1) % 5)  # three in four right
    predictions = Predictions(split="test", labels=labels, predicted=by_float, logits=None)
    plan, outcome = a_plan(int8=True), outcome_of([a_row(9)])
    images: Any = None  # the views stand for them
    quantised = quantise.quantiser(
        plan, replace(outcome, predictions=(predictions,)), served(plan), images
    )
    assert quantised is not None
    found = quantised(plain)
    assert asked == [("train", quantise.CALIBRATION_IMAGES), ("test", None)]
    right = logits_of(tmp_path / "model-int8.onnx", views["test"]).argmax(axis=1) == labels
    assert found.test.hits1 == right.sum() > 20 and found.test.n == found.calibrated_on == 40
    assert found.difference == pytest.approx(right.mean() - 0.75)
    assert found.bytes == os.path.getsize(tmp_path / "model-int8.onnx") < found.float_bytes / 3
    assert found.conditions.precision == "int8"
