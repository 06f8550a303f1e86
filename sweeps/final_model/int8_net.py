"""What the quantised net is worth beside the float one, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.evaluation.metrics import Score
from trainables.profiling.latency import Conditions, Latency

INT8_FILE = "model-int8.onnx"


@dataclass(frozen=True, kw_only=True)
class Int8Net:
    """What ``model-int8.onnx`` gives test and takes, beside ``model.onnx``."""

    calibrated_on: int
    """Images of train that the ranges of activations were read off."""
    bytes: int
    float_bytes: int
    """Size of ``model.onnx``."""
    test: Score
    difference: float
    """Top-1 on test minus the float net's, image by image; a share."""
    error: float
    """Standard error of the paired difference."""
    conditions: Conditions
    latency: Latency
    float_latency: Latency
    """Of ``model.onnx``, measured in turns with it."""

    @property
    def metrics(self) -> dict[str, float]:
        """What MLflow is told of it."""
        return {
            "test/top1_int8": self.test.top1,
            "work/latency_ms_model_int8_onnx": self.latency.latency_ms,
            "work/mb_model_int8_onnx": self.bytes / 1e6,
        }

    def in_words(self) -> str:
        """Say in a line what it gives and takes."""
        return (
            f"top-1 on test {100 * self.test.top1:.1f} % (n={self.test.n}; "
            f"{100 * self.difference:+.1f} points on model.onnx, paired, standard error "
            f"{100 * self.error:.1f}), {self.bytes / 1e6:.1f} MB instead of "
            f"{self.float_bytes / 1e6:.1f}, {self.latency.latency_ms:.3g} ms instead of "
            f"{self.float_latency.latency_ms:.3g} (medians, in turns; {self.conditions}); ranges "
            f"read off {self.calibrated_on} train images"
        )
