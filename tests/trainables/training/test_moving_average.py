import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from trainables.training.moving_average import MovingAverage


@pytest.mark.parametrize("has_counts", [True, False])
def test_it_is_timms_bit_for_bit(has_counts):
    torch.manual_seed(0)
    layer = nn.Linear(5, 4)
    model = nn.Sequential(layer, *([nn.BatchNorm1d(4)] if has_counts else []))
    ours, theirs = MovingAverage(model, 0.7), ModelEmaV3(copy.deepcopy(model), decay=0.7)
    for step in range(5):
        with torch.no_grad():
            model(torch.randn(8, 5))
            layer.weight.add_(torch.randn(4, 5))
        ours.update(model, step=step)
        theirs.update(model, step=step)
    wanted = theirs.module.state_dict()
    assert wanted.keys() == ours.module.state_dict().keys()
    for name, tensor in ours.module.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert not torch.equal(ours.module.get_parameter("0.weight"), layer.weight)
