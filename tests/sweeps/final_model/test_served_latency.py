"""The exported file is measured itself, and judged where it compares with what chose it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeps.final_model.served_latency import measure_served
from sweeps.planning.options.latency_options import LatencyOptions
from tests.factories import CONDITIONS, a_served_latency
from trainables.export.portable_formats import export_onnx, trace, write_onnx
from trainables.profiling.latency import Conditions

ELSEWHERE = replace(CONDITIONS, device="Another CPU")


@pytest.mark.parametrize(
    ("ms", "limit", "chosen_by", "met", "words"),
    [
        (2.5, 3.0, CONDITIONS, True, "--max-latency-ms 3 is met"),
        (3.0, 3.0, CONDITIONS, True, "--max-latency-ms 3 is met"),
        (3.1, 3.0, CONDITIONS, False, "--max-latency-ms 3 is NOT met"),
        (3.1, 3.0, replace(CONDITIONS, runtime="torch"), False, "is NOT met"),
        (3.1, None, CONDITIONS, None, "3.1 ms (median of 50 runs"),
        (3.1, 3.0, ELSEWHERE, None, "is not judged here"),
        (3.1, 3.0, replace(CONDITIONS, threads=1), None, "is not judged here"),
        (3.1, 3.0, None, None, "is not judged here"),
    ],
)
def test_a_limit_is_met_or_not_or_not_judged(
    ms: float, limit: float | None, chosen_by: Conditions | None, met: bool | None, words: str
) -> None:
    served = a_served_latency(ms)
    assert served.meets(limit, chosen_by) is met
    said = served.in_words(limit, chosen_by)
    assert words in said and said.startswith(f"{ms:g} ms (median of 50 runs")
    assert str(CONDITIONS) in said


def test_the_file_itself_is_measured(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    net(torch.zeros(1, 3, 32, 32))
    write_onnx(tmp_path / "model.onnx", export_onnx(trace(net.eval(), 32)), {})
    options = LatencyOptions(latency_runtime="torch", latency_threads=1, latency_batch=2)
    found = measure_served(tmp_path / "model.onnx", options)
    assert (found.conditions.runtime, found.conditions.threads) == ("onnx", 1)
    assert found.conditions.batch == 2 and found.latency.latency_ms > 0
