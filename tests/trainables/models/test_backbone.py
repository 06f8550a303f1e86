"""The nets: the parts that FixRes touches, and trunks that are loaded into them."""

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.bf16 import emulate
from trainables.models import backbone, variants
from trainables.models.backbone import load_trunk
from trainables.models.parts.tensor_names import AFFINE, CLASSIFIER, EFFICIENTNET, STATISTICS

LITE0, B0 = variants.get("lite0"), variants.get("b0")


def on_meta(variant, classes):
    with torch.device("meta"):
        return backbone.build(variant, classes)


@pytest.fixture(scope="module")
def lite0_state(lite0_weights):
    return load_file(lite0_weights / "lite0.safetensors")


@pytest.fixture
def lite0(lite0_state):
    net = backbone.build(LITE0, 5)
    net.load_state_dict(lite0_state)
    return net.eval()


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_every_variant_has_the_parts_that_the_fix_names(name):
    model = on_meta(variants.get(name), 7)
    state = model.state_dict()
    assert state["classifier.weight"].shape == (7, model.num_features)
    assert isinstance(model.bn2, torch.nn.BatchNorm2d)
    assert model.bn2.num_features == model.num_features
    assert set(EFFICIENTNET.of(CLASSIFIER, STATISTICS, AFFINE)) <= set(state)


def test_dropout_is_as_given():
    with torch.device("meta"):
        assert backbone.build(B0, 2, drop_rate=0.2).drop_rate == 0.2
    assert on_meta(B0, 2).drop_rate == 0.0


@pytest.mark.parametrize("res", [32, 72])
def test_the_parts_in_a_row_are_the_model(lite0, res):
    x = torch.randn(2, 3, res, res)
    with torch.no_grad():
        maps = backbone.body(lite0, x)
        features = backbone.pooled(lite0, lite0.conv_head(maps))
        assert maps.shape[2:] == (-(-res // 32), -(-res // 32))
        torch.testing.assert_close(lite0.classifier(features), lite0(x))
        torch.testing.assert_close(features, lite0.forward_head(lite0.forward_features(x), True))


def test_a_model_on_its_device_differs_in_layout_alone(lite0):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = lite0(x)
        placed: Any = backbone.to_device(lite0, torch.device("cpu"))
        torch.testing.assert_close(placed(x), wanted, rtol=1e-4, atol=1e-4)
    assert placed.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["lite0", "b0"])
def test_a_frozen_body_makes_the_maps_of_the_net_without_its_norms(name):
    torch.manual_seed(0)
    net = backbone.build(variants.get(name), 5)
    with torch.no_grad():
        net.train()(torch.randn(8, 3, 64, 64))  # so that norms have statistics of their own
    net.eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    x = torch.randn(3, 3, 64, 64)
    frozen = backbone.frozen_body(net)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.body(frozen, x), backbone.body(net, x), rtol=1e-4, atol=1e-4
        )
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_a_trunk_of_as_many_classes_keeps_its_classifier(lite0_state):
    model = backbone.build(LITE0, 5)
    load_trunk(model, lite0_state)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in lite0_state.items())


def test_a_trunk_of_other_classes_starts_with_a_classifier_of_zeros(lite0_state):
    model: Any = backbone.build(LITE0, 3)
    load_trunk(model, lite0_state)
    loaded = model.state_dict()
    assert loaded["classifier.weight"].shape[0] == 3
    assert not model.classifier.weight.any() and not model.classifier.bias.any()
    rest = [name for name in lite0_state if name not in EFFICIENTNET.of(CLASSIFIER)]
    assert all(torch.equal(loaded[name], lite0_state[name]) for name in rest)


@pytest.mark.parametrize("harm", ["missing", "unexpected", "misshapen"])
def test_a_trunk_that_does_not_fit_is_refused(lite0_state, harm):
    state = dict(lite0_state)
    if harm == "missing":
        del state["bn2.running_mean"]
    elif harm == "unexpected":
        state["conv_head.bias"] = torch.zeros(1280)
    else:
        state["conv_head.weight"] = torch.zeros(3, 3, 1, 1)
    with pytest.raises((ValueError, RuntimeError), match=r"bn2\.running_mean|conv_head"):
        load_trunk(backbone.build(LITE0, 3), state)


@pytest.mark.parametrize("name", ["densenet121", "repvgg_a0", "mixnet_s", "convnext_atto"])
def test_a_frozen_body_rounds_what_autocast_does_and_no_norm(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those nets have norms that no convolution comes right before, or of layers."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3).train()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        net(x)
        net.eval()
        exact = backbone.body(net, x)
        emulate(monkeypatch)
        wanted, found = backbone.body(net, x), backbone.body(backbone.frozen_body(net), x)
    assert found.dtype == wanted.dtype
    off, rounding = ((maps.float() - exact).norm() for maps in (found, wanted))
    assert 0 < off < 2 * rounding
    if not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules()):
        assert torch.equal(found, wanted), "nothing is folded, so that nothing is rounded anew"
