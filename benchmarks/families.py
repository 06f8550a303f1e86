"""Show for nets of many families what FixRes touches, and that its arms are what the nets do.

    python benchmarks/families.py IMAGES [--nets resnet50 densenet121 ...]

IMAGES is a folder of class folders. Of each net, with weights by chance, a trunk is trained for an
epoch and adapted by all arms, as in a sweep: its body runs once, and the rest is worked out of what
that leaves. The same is done by timm's whole net, plainly, for each arm (the tests'
``plain_arms.py``). A line of the table, in Markdown, has the modules that the fix touches, what is
kept of an image for that, and the largest difference between the two ways: of all arms and images
of val, as a share of the largest logit. Nets that are refused have the reason instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

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
    print("| net | last norm | classifier | kept of an image | arms | largest difference |")
    print("|---|---|---|---|---:|---:|")
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
        return f"| {name} | refused: {reason} | | | | |"
    made = made_of_family(name, images, root)
    off = max(_difference(made, arm) for arm in made.cell.arms)
    shape = map_shape(variant.name, TEST_RES)
    norm = names.norm if names.has_statistics else f"{names.norm} (no statistics)"
    kept = f"{shape.channels:,} x {shape.side} x {shape.side} at {TEST_RES} px"
    return f"| {name} | {norm} | {names.classifier} | {kept} | {len(made.cell.arms)} | {off:.1e} |"


def _difference(made: object, arm: str) -> float:
    """Compare val's logits by an arm with those of the whole net, as a share of the largest."""
    found, wanted = made.logits[arm], plain(made, arm)  # type: ignore[attr-defined]
    return float((found - wanted).abs().max() / wanted.abs().max())


if __name__ == "__main__":
    main()
