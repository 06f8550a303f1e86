"""The epochs after which trunks are compared."""

from __future__ import annotations

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from sweeps.planning.savings.rungs import rungs_to
from tests.factories import plan_of, spec_with


@pytest.mark.parametrize("reduction", [2, 3, 4, 10])
@pytest.mark.parametrize("grace", [1, 2, 3, 7])
def test_rungs_are_those_of_rays_asha(grace: int, reduction: int) -> None:
    for epochs in (1, 2, 3, 4, 5, 6, 8, 9, 16, 20, 27, 50, 81, 100, 243, 1000):
        asha = AsyncHyperBandScheduler(
            max_t=epochs, grace_period=min(grace, epochs), reduction_factor=reduction
        )
        rays = {int(milestone) for milestone, _ in asha._brackets[0]._rungs}
        assert rungs_to(epochs, grace, reduction) == (*sorted(rays - {epochs}), epochs)


@pytest.mark.parametrize(
    ("train", "batch_size", "grace"),
    [(8_000, 32, 2), (4_000, 32, 2), (3_999, 32, 3), (640, 32, 13), (607, 32, 14), (20, 32, 250)],
)
def test_the_first_rung_comes_after_250_steps_and_two_epochs(
    train: int, batch_size: int, grace: int
) -> None:
    spec = spec_with(epochs=500, batch_size=batch_size, reduction=3)
    assert plan_of(spec, train=train).rungs[0] == grace
    asked = plan_of(spec_with(spec, grace_epochs=1), train=train)
    assert asked.rungs[0] == 1


def test_no_trunk_is_cut_where_training_ends_before_the_first_rung() -> None:
    assert plan_of(spec_with(epochs=8), train=640).rungs == (8,)


def test_where_batches_of_several_sizes_are_tried_the_largest_makes_its_steps() -> None:
    space = {"batch_size": {"choices": [32, 64]}}
    plan = plan_of(spec_with(epochs=500, space=space), train=8_000)
    assert plan.rungs[0] == 2
    assert plan_of(spec_with(epochs=500, space=space), train=4_000).rungs[0] == 5
