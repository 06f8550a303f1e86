"""Show for nets of many families what FixRes touches, and that its arms are what the nets do.

    python benchmarks/families.py IMAGES [--nets resnet50 densenet121 ...]

IMAGES is a folder of class folders. Of each net, with weights by chance, a trunk is trained for an
epoch and adapted by all arms, as in a sweep: its body runs once, and the rest is worked out of what
that leaves. The same is done by timm's whole net, plainly, for each arm (the tests'
``plain_arms.py``). A line of the table, in Markdown, has the modules that the fix touches, what is
kept of an image for that, and how far each of the two ways, both in float32, is from the whole net
in float64: the largest difference of all arms and images of val, as a share of the largest logit.
What the whole net is off is rounding. Nets that are refused have the reason instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.trainables.adapted import TEST_RES, made_of_family
from tests.trainables.fixres.plain_arms import plain
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.models import variants
from trainables.models.map_shape import map_shape
from trainables.models.parts.dividing import names_in

NETS = (
    *("resnet18", "resnet50", "resnext26ts", "seresnet18", "regnetx_002", "regnety_002"),
    *("mobilenetv2_050", "mobilenetv3_small_050", "tf_efficientnetv2_b0", "convnext_atto"),
    *("densenet121", "ghostnet_050", "lcnet_050", "repvgg_a0", "resnet10t"),
    *("hrnet_w18_small", "mobilenetv4_conv_small", "resnetv2_50", "vgg11_bn", "nfnet_f0"),
    *("mobilevit_xs", "vit_small_patch16_224", "swin_tiny_patch4_window7_224"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder of class folders")
    parser.add_argument("--nets", nargs="+", default=NETS, help="as timm names them")
    args = parser.parse_args()
    print("| net | last norm | classifier | kept of an image | arms | off | whole net off |")
    print("|---|---|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        images = prepare(args.images, Path(folder) / "decoded", ReadOptions())
        for name in args.nets:
            print(_line(name, images, Path(folder) / name), flush=True)


def _line(name: str, images: ImageSet, root: Path) -> str:
    """Divide and compare a net; a line of the table."""
    variant = variants.get(f"timm:{name}")
    try:
        names = names_in(variant)
    except UserError as error:
        reason = str(error).partition(": ")[2].partition("; give")[0]
        return f"| {name} | refused: {reason} | | | | | |"
    made = made_of_family(name, images, root)
    off, rounding = np.max([_differences(made, arm) for arm in made.cell.arms], axis=0)
    shape = map_shape(variant.name, TEST_RES)
    norm = names.norm if names.has_statistics else f"{names.norm} (no statistics)"
    kept = f"{shape.channels:,} x {shape.side} x {shape.side} at {TEST_RES} px"
    differences = f"{off:.1e} | {rounding:.1e}"
    return f"| {name} | {norm} | {names.classifier} | {kept} | {len(made.logits)} | {differences} |"


def _differences(made: Any, arm: str) -> tuple[float, float]:
    """Compare val's logits by an arm, and those of the whole net, with the whole net's in float64.

    Returns:
        The largest difference of each, as a share of the largest logit.
    """
    whole = plain(made, arm)
    torch.set_default_dtype(torch.float64)
    try:
        exact = plain(made, arm)
    finally:
        torch.set_default_dtype(torch.float32)
    off, rounding = (
        (one - exact).abs().max() / exact.abs().max() for one in (made.logits[arm], whole)
    )
    return float(off), float(rounding)


if __name__ == "__main__":
    main()
