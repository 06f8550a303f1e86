"""The nets that arms left in the store, read back."""

from dataclasses import replace

import pytest
import torch

from tests.trainables.adapted import (
    WHOLE,
    net_with,
    pixels_of,
)
from trainables.fixres.adapted_net import adapted_state, serving_transform
from trainables.fixres.arms import ARMS
from trainables.storage.damage import DamagedFileError
from trainables.training.trunk import read_trunk_spec


@pytest.mark.parametrize("arm", [a for a in ARMS if ARMS[a].plain])
def test_what_an_arm_leaves_is_a_net_that_does_the_same(made, arm):
    transform = replace(WHOLE, crop_pct=0.875) if arm == "none" else WHOLE
    x, _ = pixels_of(made.views.images, "val", transform)
    net = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, arm))
    with torch.no_grad():
        torch.testing.assert_close(net(x), made.logits[arm], rtol=1e-4, atol=1e-4)


def test_an_arm_that_changes_nothing_is_the_trunk(made):
    state = adapted_state(made.store, made.cell.trunk, "no such cell", "crop1")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.trunk.items())


def test_an_arm_that_the_cell_has_not_is_not_found(made):
    with pytest.raises(DamagedFileError):
        adapted_state(made.store, made.cell.trunk, "no such cell", "fix")


@pytest.mark.parametrize("arm", ARMS)
def test_all_arms_but_none_are_served_in_the_cells_transform(made, arm):
    spec = read_trunk_spec(made.store, made.cell.trunk)
    wanted = replace(WHOLE, crop_pct=0.875) if arm == "none" else WHOLE
    assert serving_transform(spec, made.cell, arm) == wanted
