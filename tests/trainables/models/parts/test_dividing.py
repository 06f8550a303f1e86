"""Nets are divided where FixRes adapts them, or refused: on the meta device, and with weights."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import fx, nn

from tests.factories import is_one_sentence
from trainables.errors import UserError
from trainables.models import backbone, variants
from trainables.models.folding import fold_batch_norms
from trainables.models.map_shape import map_shape
from trainables.models.parts.dividing import names_in, parts_of, parts_of_architecture
from trainables.models.parts.net_parts import NotDividedError


class Wanted(NamedTuple):
    """What a person reads off timm's source of a net."""

    norm: str
    classifier: str
    linear: str | None = None
    carried: tuple[int, ...] = ()
    has_statistics: bool = True
    has_neck: bool = False
    mixes: bool = False


WANTED = {
    "resnet18": Wanted("layer4.1.bn2", "fc", carried=(512,)),
    "resnet50": Wanted("layer4.2.bn3", "fc", "layer4.2.conv3", (2048,)),
    "wide_resnet50_2": Wanted("layer4.2.bn3", "fc", "layer4.2.conv3", (2048,)),
    "resnext50_32x4d": Wanted("layer4.2.bn3", "fc", "layer4.2.conv3", (2048,)),
    "seresnet50": Wanted("layer4.2.bn3", "fc", "layer4.2.conv3", (2048,), mixes=True),
    "res2net50_26w_4s": Wanted("layer4.2.bn3", "fc", "layer4.2.conv3", (2048,)),
    "regnetx_032": Wanted("s4.b2.conv3.bn", "head.fc", "s4.b2.conv3.conv", (1008,)),
    "regnety_016": Wanted("s4.b2.conv3.bn", "head.fc", "s4.b2.conv3.conv", (888,)),
    "mobilenetv2_100": Wanted("bn2", "classifier", "conv_head"),
    "mobilenetv3_large_100": Wanted(
        "blocks.6.0.bn1", "classifier", "blocks.6.0.conv", has_neck=True
    ),
    "tf_efficientnetv2_s": Wanted("bn2", "classifier", "conv_head"),
    "convnext_tiny": Wanted("head.norm", "head.fc", has_statistics=False, has_neck=True),
    "densenet121": Wanted("features.norm5", "classifier"),
    "xception41": Wanted("blocks.12.stack.conv3.bn_pw", "head.fc", "blocks.12.stack.conv3.conv_pw"),
    "resnet50_gn": Wanted(
        "layer4.2.bn3", "fc", "layer4.2.conv3", (2048,), has_statistics=False
    ),
}  # fmt: skip
SMALL: tuple[str, ...] = (
    "resnet18",
    "seresnet18",
    "regnety_002",
    "mobilenetv3_small_050",
    "convnext_atto",
)
SMALL += ("densenet121", "tf_efficientnetv2_b0", "repvgg_a0", "resnet10t")


@pytest.mark.parametrize("name", WANTED)
def test_a_net_is_divided_at_its_last_norm_its_pooling_and_its_classifier(name: str) -> None:
    parts = parts_of_architecture(name)
    found = Wanted(
        norm=parts.names.norm,
        classifier=parts.names.classifier,
        linear=parts.linear,
        carried=parts.carried,
        has_statistics=parts.names.has_statistics,
        has_neck=parts.neck is not None,
        mixes=parts.mixes_channels,
    )
    assert found == WANTED[name]


def steps(graph: fx.Graph | None) -> list[tuple[str, Any]]:
    return [(n.op, n.target if n.op == "call_module" else "") for n in graph.nodes] if graph else []


@pytest.mark.parametrize("name", ["lite0", "b0"])
def test_the_parts_of_efficientnets_that_are_known_are_those_that_are_found(name: str) -> None:
    variant = variants.get(name)
    with torch.device("meta"):
        known = parts_of(backbone.build(variant, 3))
    found = parts_of_architecture(variant.timm_name)
    graphs = ("body", "mix", "neck")
    for field in graphs:
        assert steps(getattr(known, field)) == steps(getattr(found, field))
    rest = [{k: v for k, v in vars(p).items() if k not in graphs} for p in (known, found)]
    assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_tiny_patch16_224", "as transformers do, whose tokens change with it"),
        ("swin_tiny_patch4_window7_224", "as transformers do, whose tokens change with it"),
        ("mixer_s16_224", "it runs at one resolution alone"),
        ("mobilevit_xs", "it has attention"),
        ("nfnet_f0", "it has no norm"),
        ("vgg11_bn", "changes the side of its maps"),
        ("mobilenetv4_conv_small", "its last batch norm, norm_head, comes after the pooling"),
        ("resnetv2_50", "its classifier is not one linear layer"),
        ("hrnet_w18_small", "its forward cannot be traced"),
    ],
)
def test_a_net_in_which_there_is_nothing_to_fix_is_refused_in_words(name: str, reason: str) -> None:
    with pytest.raises(NotDividedError, match=reason):
        parts_of_architecture(name)
    with pytest.raises(UserError, match=rf"`variant` timm:{name} is no net.*{reason}") as refusal:
        names_in(variants.get(f"timm:{name}"))
    assert is_one_sentence(str(refusal.value))


def alive(name: str) -> nn.Module:
    """A net whose norms do something and have seen images."""
    torch.manual_seed(0)
    net = backbone.build(variants.get(f"timm:{name}"), 5).train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
        net(torch.randn(8, 3, 64, 64))
    return net.eval()


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() < 1e-5 * wanted.abs().max())


@pytest.mark.parametrize("name", SMALL)
def test_the_parts_in_a_row_are_the_net(name: str) -> None:
    net = alive(name)
    x = torch.randn(2, 3, 72, 72)
    with torch.no_grad():
        wanted, maps = net(x), backbone.body(net, x)
        z = backbone.pre_norm(net, maps)
        assert close(backbone.classify(net, backbone.head_input(net, z)), wanted)
        assert close(backbone.body(backbone.frozen_body(net), x), maps)
        if backbone.names_of(net).has_statistics:
            after = backbone.after_norm(net, backbone.normed(net, z), z)
            assert close(after, backbone.pooled(net, z))
        folded = copy.deepcopy(net)
        fold_batch_norms(folded)
        assert close(folded(x), wanted)
    shape = map_shape(f"timm:{name}", 72)
    assert maps.shape[1:] == (shape.channels, shape.side, shape.side)
    assert z.shape[1] == shape.normed


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_arms_share_all_but_what_they_adapt(name: str) -> None:
    net, other = alive(name), alive(name)
    names = backbone.names_of(net)
    adapted = names.of("statistics", "affine", "classifier")
    backbone.share_frozen(net, other)
    theirs = other.state_dict(keep_vars=True)
    for key, tensor in net.state_dict(keep_vars=True).items():
        is_own = key in adapted or key == f"{names.norm}.num_batches_tracked"
        assert (tensor is theirs[key]) == (not is_own), key
