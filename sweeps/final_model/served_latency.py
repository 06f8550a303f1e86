"""Measure the exported ``model.onnx`` itself, and say whether it keeps the limit on latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.planning.options.words import option
from sweeps.selection.row_latency import setting_from
from trainables.profiling import onnx_latency
from trainables.profiling.latency import Conditions, Latency

LIMIT = option("max_latency_ms")


@dataclass(frozen=True, kw_only=True)
class ServedLatency:
    """What the exported file takes on the machine that exported it."""

    conditions: Conditions
    latency: Latency

    def meets(self, limit: float | None, chosen_by: Conditions | None) -> bool | None:
        """Whether the file keeps a limit (ms); None: there is none, or it is another machine's.

        Args:
            chosen_by: what the latencies were measured with that the limit was applied to.
        """
        if limit is None or chosen_by is None or not self.conditions.comparable(chosen_by):
            return None
        return self.latency.latency_ms <= limit

    def in_words(self, limit: float | None, chosen_by: Conditions | None) -> str:
        """Say in a sentence what the file takes, and whether it keeps the limit."""
        taken = self.latency
        words = (
            f"{taken.latency_ms:.3g} ms (median of {taken.runs} runs, 10th to 90th percentile "
            f"{taken.low_ms:.3g} to {taken.high_ms:.3g}; {self.conditions})"
        )
        if limit is None:
            return words
        met = self.meets(limit, chosen_by)
        if met is None:
            return (
                f"{words}; {LIMIT} {limit:g} is not judged here, as it was applied to latencies of "
                f"another machine or setting ({chosen_by}): measure the file there with "
                "fixres-latency"
            )
        return f"{words}; {LIMIT} {limit:g} is {'met' if met else 'NOT met'}"


def measure_served(onnx: Path, options: LatencyOptions) -> ServedLatency:
    """Measure an exported file in ONNX Runtime on this machine's CPU, alone and warm.

    Args:
        options: threads and batch sizes; the runtime is that of the file.
    """
    setting = setting_from(options, runtime="onnx")
    (latency,) = onnx_latency.measure_files({onnx.name: onnx}, setting).values()
    return ServedLatency(conditions=onnx_latency.conditions(setting), latency=latency)
