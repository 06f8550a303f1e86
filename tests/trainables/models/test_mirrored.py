"""A net that averages over the mirror image gives the mean of two plain passes."""

import pytest
import torch

from tests import tiny_net  # noqa: F401  (timm knows it then)
from trainables.models import backbone, variants
from trainables.models.mirrored import MirrorAveraged, mirror

pytestmark = pytest.mark.usefixtures("tiny_known")


@torch.no_grad()
def test_logits_are_the_mean_of_two_plain_passes():
    torch.manual_seed(0)
    net = backbone.build(variants.get("tiny"), 4).eval()
    torch.nn.init.normal_(net.get_parameter("classifier.weight"))
    x = torch.randn(3, 3, 40, 40)
    wanted = (net(x) + net(torch.tensor(x.numpy()[..., ::-1].copy()))) / 2
    served = MirrorAveraged(net)
    torch.testing.assert_close(served(x), wanted)
    assert (served(x) - net(x)).abs().max() > 1e-3
    torch.testing.assert_close(served(mirror(x)), served(x))  # it sees no left and right
    torch.testing.assert_close(served(x[:1]), served(x)[:1])  # nor the other images of a batch
