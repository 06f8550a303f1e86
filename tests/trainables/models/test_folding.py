"""A net with folded batch norms gives the same logits, and has no batch norm left."""

import pytest
import timm
import torch
from torch import nn

from tests.trainables.export.test_portable_formats import alive
from trainables.models import backbone, variants
from trainables.models.folding import fold_batch_norms


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("variant", ["lite0", "b0"])
def test_folding_leaves_the_logits_and_no_batch_norm(variant: str) -> None:
    torch.manual_seed(0)
    net = alive(backbone.build(variants.get(variant), 5), 64)
    for norm in norms(net):
        nn.init.normal_(norm.weight, mean=1.0, std=0.3)
        nn.init.normal_(norm.bias)
    net.double()  # such a net makes much of rounding
    pixels = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        wanted = net(pixels)
    fold_batch_norms(net)
    with torch.inference_mode():
        folded = net(pixels)
    assert norms(net) == []
    torch.testing.assert_close(folded, wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())


def test_any_family_of_timm_gives_its_logits() -> None:
    """Also one whose batch norms come before their convolutions, and stay."""
    for name in ("test_byobnet", "test_convnext", "test_efficientnet_evos", "test_nfnet"):
        net = timm.create_model(name, num_classes=3).double().eval()
        pixels = torch.randn(2, 3, 96, 96, dtype=torch.float64)
        with torch.inference_mode():
            wanted = net(pixels)
            fold_batch_norms(net)
            folded = net(pixels)
        torch.testing.assert_close(folded, wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())


def test_a_norm_that_follows_something_else_stays() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    nn.init.normal_(norms(net)[0].bias)
    pixels = torch.randn(1, 3, 2, 2)
    with torch.inference_mode():
        wanted = net(pixels)
        fold_batch_norms(net)
        assert torch.equal(net(pixels), wanted)
    assert len(norms(net)) == 2
