"""The table of the published FixEfficientNet figures.

Fixed nets: FixEfficientNet (Touvron et al., arXiv:2003.08237), as printed in the README of the
authors' released code. The train resolution, which it does not print, is the start's native one.
Start points: the same weights as measured by timm (results-imagenet.csv). All on ImageNet val,
crop ratio 1.0 for the fixed nets, bicubic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures of one net before and after the fix. Resolutions in px, top-1 and top-5 in %."""

    variant: str
    train_res: int
    test_res: int
    start_top1: float
    start_top5: float
    fix_top1: float
    fix_top5: float


#              train test   start          fix
_NOISY_STUDENT = (
    ("b0", 224, 320, 78.68, 94.37, 80.2, 95.4),
    ("b1", 240, 384, 81.39, 95.76, 82.6, 96.4),
    ("b2", 260, 420, 82.41, 96.24, 83.6, 96.9),
    ("b3", 300, 472, 84.05, 96.93, 85.0, 97.4),
    ("b4", 380, 472, 85.16, 97.48, 85.9, 97.7),
    ("b5", 456, 576, 86.10, 97.74, 86.4, 97.9),
    ("b6", 528, 680, 86.48, 97.86, 86.7, 98.0),
    ("b7", 600, 632, 86.85, 98.08, 87.1, 98.2),
    ("l2", 475, 600, 88.25, 98.55, 88.5, 98.7),  # the start at 475 px; at 800, 88.36 and 98.66
)
_ADVPROP = (
    ("b0_ap", 224, 320, 77.10, 93.26, 79.3, 94.6),
    ("b1_ap", 240, 384, 79.29, 94.32, 81.3, 95.7),
    ("b2_ap", 260, 420, 80.30, 95.03, 82.0, 96.0),
    ("b3_ap", 300, 472, 81.84, 95.61, 83.0, 96.4),
    ("b4_ap", 380, 512, 83.25, 96.39, 84.0, 97.0),
    ("b5_ap", 456, 576, 84.26, 96.98, 84.7, 97.2),
    ("b6_ap", 528, 576, 84.79, 97.14, 84.9, 97.3),
    ("b7_ap", 600, 632, 85.13, 97.26, 85.3, 97.4),
    ("b8", 672, 800, 85.36, 97.30, 85.7, 97.6),
)

PUBLISHED: dict[str, Published] = {row[0]: Published(*row) for row in (*_NOISY_STUDENT, *_ADVPROP)}


def published(variant: str) -> Published | None:
    """Look up the figures of a variant; None where nothing is published."""
    return PUBLISHED.get(variant)
