"""What a resolution means: resize sides, map sides. Pure arithmetic, px throughout."""

from __future__ import annotations

import math

STRIDE = 32  # of every EfficientNet
SMALLEST = 32  # one feature-map position
TEST_CROP_PCT = 1.0  # FixEfficientNet's protocol: the whole short side


def feature_side(res: int) -> int:
    """Side of the last feature map; "same" padding rounds up."""
    return math.ceil(res / STRIDE)


def resize_side(test_res: int, crop_pct: float) -> int:
    """Short side to resize to, before the centre crop of ``test_res`` (timm's rule)."""
    return math.floor(test_res / crop_pct)
