"""Names of the tensors that FixRes adapts in timm's EfficientNets."""

from __future__ import annotations

CLASSIFIER = ("classifier.weight", "classifier.bias")
STATISTICS = ("bn2.running_mean", "bn2.running_var")
AFFINE = ("bn2.weight", "bn2.bias")
