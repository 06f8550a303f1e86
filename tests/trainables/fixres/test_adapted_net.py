"""The nets that arms left in the store, read back."""

import pytest
import torch

from tests.trainables.adapted import net_with, pixels_of, served
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.storage.damage import DamagedFileError


@pytest.mark.parametrize("arm", [a for a in ARMS if ARMS[a].plain])
def test_what_an_arm_leaves_is_a_net_that_does_the_same(made, arm):
    x, _ = pixels_of(made.views.images, "val")
    net = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, arm))
    with torch.no_grad():
        torch.testing.assert_close(served(net, arm)(x), made.logits[arm], rtol=1e-4, atol=1e-4)


def test_an_arm_that_changes_nothing_is_the_trunk(made):
    state = adapted_state(made.store, made.cell.trunk, "no such cell", "none")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.trunk.items())


def test_an_arm_that_the_cell_has_not_is_not_found(made):
    with pytest.raises(DamagedFileError):
        adapted_state(made.store, made.cell.trunk, "no such cell", "fix")
