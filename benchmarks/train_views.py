"""Fit classifiers on train resized by Pillow and by PyTorch's kernel; val is Pillow's either way.

    python benchmarks/train_views.py IMAGES [--test-res 64 96 128]

IMAGES is a folder of class folders. At each resolution its untouched Lite0, with ImageNet's
weights, is fixed (arms bn and fix) on views of train by each kernel, all in one process, after a
first run that warms up. A line has the seconds of the cell, how far the features of train and the
logits of val are off those by Pillow, as a share of their norm, top-1 on val, and how many labels
of val differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.streamed_cells import VARIANT, Outcome, adapted, off
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.evaluation.confidence import standard_error
from trainables.transforms.fast_resize import Kernel

KERNELS: tuple[Kernel, ...] = ("pillow", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder of class folders")
    parser.add_argument("--test-res", type=int, nargs="+", default=(64, 96, 128), help="px")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = prepare(args.images, folder / "decoded", ReadOptions())
        train, val = (len(images.split(split)) for split in ("train", "val"))
        print(f"{train} train and {val} val images, {VARIANT}")
        print(
            "| px | train by | seconds | features off | logits off | top-1 on val | labels differ |"
        )
        print("|---:|---|---:|---:|---:|---:|---:|")
        fixed(folder / "warm-up", images, args.test_res[0], "pillow")
        for res in args.test_res:
            by = {k: fixed(folder / f"{res}-{k}", images, res, k) for k in KERNELS}
            for kernel, found in by.items():
                print(line(res, kernel, found, by["pillow"]))


def fixed(folder: Path, images: ImageSet, res: int, kernel: Kernel) -> Outcome:
    """Work out a cell whose train is resized by a kernel."""
    with (
        patch("trainables.data.view_cache.kernel_here", lambda: kernel),
        patch("trainables.fixres.adapt.kernel_here", lambda: kernel),
    ):
        return adapted(folder, images, res, None)


def line(res: int, kernel: Kernel, found: Outcome, pillow: Outcome) -> str:
    """Write what came of a cell beside that of Pillow's views."""
    right = found.predicted == found.labels
    error = standard_error(int(right.sum()), len(right))
    return (
        f"| {res} | {kernel} | {found.seconds:.1f} | {off(found.features, pillow.features):.2%} "
        f"| {off(found.logits, pillow.logits):.2%} | {100 * right.mean():.1f} ± {100 * error:.1f} "
        f"| {(found.predicted != pillow.predicted).sum()} |"
    )


if __name__ == "__main__":
    main()
