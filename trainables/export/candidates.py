"""Write ONNX files of nets that a sweep may choose, with random weights, to measure what they take.

Latency depends on variant, resolution and number of classes, not on weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.export.portable_formats import write_onnx
from trainables.export.variant_graphs import graph_of
from trainables.models import backbone, variants

VARIANT = "variant"  # the metadata property that names the variant


def write_candidates(
    folder: Path, variant: str, resolutions: Sequence[int], classes: int
) -> dict[int, Path]:
    """Write ``<variant>-<resolution>.onnx`` into ``folder`` for each resolution (px).

    Returns:
        The files, by resolution.
    """
    net = backbone.build(variants.get(variant), classes).eval()
    files = {
        res: folder / f"{variants.file_name(variant)}-{res}.onnx"
        for res in sorted(set(resolutions))
    }
    for res, path in files.items():
        write_onnx(path, graph_of(net, variant, res), {VARIANT: variant})
    return files
