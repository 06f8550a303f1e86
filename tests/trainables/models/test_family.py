"""The family as published: sizes and shapes of the real nets, on the meta device."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from trainables.models import backbone, variants
from trainables.models.backbone import build
from trainables.models.map_shape import map_shape


class Card(NamedTuple):
    """Parameters with 1000 classes; blocks of all stages; the rest as timm's cards have it."""

    width: float
    depth: float
    native_res: int
    dropout: float
    crop_pct: float
    features: int
    blocks: int
    params: int
    classifier: int
    conv_head: int


CARDS = {
    "b0": Card(1.0, 1.0, 224, 0.2, 0.875, 1280, 16, 5_288_548, 1_281_000, 409_600),
    "b1": Card(1.0, 1.1, 240, 0.2, 0.882, 1280, 23, 7_794_184, 1_281_000, 409_600),
    "b2": Card(1.1, 1.2, 260, 0.3, 0.890, 1408, 23, 9_109_994, 1_409_000, 495_616),
    "b3": Card(1.2, 1.4, 300, 0.3, 0.904, 1536, 26, 12_233_232, 1_537_000, 589_824),
    "b4": Card(1.4, 1.8, 380, 0.4, 0.922, 1792, 32, 19_341_616, 1_793_000, 802_816),
    "b5": Card(1.6, 2.2, 456, 0.4, 0.934, 2048, 39, 30_389_784, 2_049_000, 1_048_576),
    "b6": Card(1.8, 2.6, 528, 0.5, 0.942, 2304, 45, 43_040_704, 2_305_000, 1_327_104),
    "b7": Card(2.0, 3.1, 600, 0.5, 0.949, 2560, 55, 66_347_960, 2_561_000, 1_638_400),
    "b8": Card(2.2, 3.6, 672, 0.5, 0.954, 2816, 61, 87_413_142, 2_817_000, 1_982_464),
    "l2": Card(4.3, 5.3, 475, 0.5, 0.936, 5504, 88, 480_309_308, 5_505_000, 7_573_504),
}
# Side of the last feature map: odd resolutions are rounded up.
SIDES = {
    "b0": (320, 10),
    "b1": (384, 12),
    "b2": (420, 14),
    "b3": (472, 15),
    "b4": (512, 16),
    "b5": (576, 18),
    "b6": (680, 22),
    "b7": (632, 20),
    "b8": (800, 25),
    "l2": (600, 19),
}


@cache
def built(name: str) -> Any:
    with torch.device("meta"):
        return build(variants.get(name), 1000).eval()


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convolutions(module: torch.nn.Module) -> list[torch.nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.mark.parametrize("name", CARDS)
def test_sizes(name: str) -> None:
    net, card = built(name), CARDS[name]
    assert net.num_features == card.features
    assert sum(len(list(stage.children())) for stage in net.blocks) == card.blocks
    assert parameters(net) == card.params
    assert parameters(net.classifier) == card.classifier
    assert parameters(net.conv_head) == card.conv_head


@pytest.mark.parametrize("name", [*CARDS, *(f"b{i}_ap" for i in range(8))])
def test_recommendations(name: str) -> None:
    row, card = variants.get(name), CARDS[name.removesuffix("_ap")]
    assert (row.name, row.width, row.depth) == (name, card.width, card.depth)
    assert (row.native_res, row.dropout) == (card.native_res, card.dropout)
    assert variants.preprocessing(row).crop_pct == card.crop_pct


def rounded(channels: float) -> int:
    """To the nearest multiple of 8, never by more than a tenth down."""
    nearest = int(channels + 4) // 8 * 8
    return nearest + 8 if nearest < 0.9 * channels else nearest


@pytest.mark.parametrize("name", CARDS)
def test_width_and_depth_scale_the_base_net(name: str) -> None:
    """EfficientNet (arXiv:1905.11946), table 1 and section 3.3: channels and layers of stages."""
    row, net = variants.get(name), built(name)
    assert row.width and row.depth
    depths = [math.ceil(row.depth * layers) for layers in (1, 2, 2, 3, 3, 4, 1)]
    widths = [rounded(row.width * channels) for channels in (16, 24, 40, 80, 112, 192, 320)]
    assert [len(list(stage.children())) for stage in net.blocks] == depths
    assert [convolutions(stage)[-1].out_channels for stage in net.blocks] == widths
    assert net.conv_stem.out_channels == rounded(32 * row.width)
    assert net.conv_head.in_channels == widths[-1]
    assert net.num_features == rounded(1280 * row.width)


@pytest.mark.parametrize("name", SIDES)
def test_last_feature_map(name: str) -> None:
    res, side = SIDES[name]
    net = built(name)
    with torch.no_grad():
        maps = backbone.body(net, torch.empty(1, 3, res, res, device="meta"))
    assert maps.shape == (1, net.conv_head.in_channels, side, side)
    assert map_shape(name, res).side == side
