"""GPU memory that trials need, by the options of a sweep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sweeps.execution import gpu_memory
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from tests.factories import plan_of, spec_with
from trainables.models.memory_fit import MemoryFit
from trainables.profiling.training_memory import (
    cell_bytes,
    forward_bytes,
    needed_gb,
    scoring_bytes,
    step_bytes,
)
from trainables.training.train_step import MIN_MICRO_BATCH

STEP: dict[str, Any] = {
    "batch": 32, "classes": 3, "precision": "bf16", "optimizer": "adamw", "ema": False,
}  # fmt: skip
FORWARD: dict[str, Any] = {"batch": 32, "classes": 3, "precision": "bf16"}


def plan(**options: Any) -> Plan:
    return plan_of(spec_with(**{"train_res": (64, 96), "test_res": (96,), **options}))


def test_a_trunk_needs_what_its_step_does() -> None:
    needs = gpu_memory.trunk_memory_needs(plan())
    assert set(needs) == {("b0", 64), ("b0", 96)}
    for (variant, res), need in needs.items():
        assert need.gb(1) == needed_gb(step_bytes(variant, res, **STEP))
        assert need.gb(4) == needed_gb(step_bytes(variant, res, **{**STEP, "batch": 8}, workers=4))
        assert need.gb(5) == needed_gb(step_bytes(variant, res, **{**STEP, "batch": 7}, workers=5))
        assert need.max_workers == 16


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd"}),
        ({"ema_decay": 0.99}, {"ema": True}),
        ({"batch_size": 7}, {"batch": 7}),
    ],
)
def test_the_recipe_counts(options: dict[str, Any], step: dict[str, Any]) -> None:
    gb = gpu_memory.trunk_memory_needs(plan(**options))["b0", 64].gb(1)
    assert gb == needed_gb(step_bytes("b0", 64, **{**STEP, **step}))


def test_scoring_far_above_the_train_resolution_takes_more_than_training() -> None:
    gb = gpu_memory.trunk_memory_needs(plan(train_res=(32,), test_res=(32, 256)))["b0", 32].gb(1)
    assert gb == needed_gb(scoring_bytes("b0", 256, **STEP))
    assert gb > needed_gb(step_bytes("b0", 32, **STEP))


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_images_are_at_once_as_training_comes_down_to(workers: int) -> None:
    """By the search itself, whose memory runs out where the estimate says so."""
    there, point = plan(batch_size=50), Point(variant="b0", train_res=96)

    def step_gb(images: int) -> float:
        return needed_gb(step_bytes("b0", 96, **{**STEP, "batch": images}, workers=workers))

    for gb in (0.5, *(step_gb(images) + 1e-9 for images in (2, 4, 7, 13, 24, 25, 50))):

        def run_out(images: int, gb: float = gb) -> int:
            if step_gb(images) > gb and images > MIN_MICRO_BATCH:
                raise torch.OutOfMemoryError
            return images

        fit = MemoryFit(torch.device("cpu"), minimum=MIN_MICRO_BATCH, error="")
        share = -(-50 // workers)
        wanted = fit.run(run_out, share)
        found = gpu_memory.images_at_once(there, point, gb, workers)
        assert found == (None if wanted == share else wanted)


def test_a_frozen_net_has_the_largest_multiple_of_the_batch_that_fits() -> None:
    there = plan(test_res=(256,), arms=("none", "bn", "frechet"), batch_size=16)

    def cell_gb(batch: int) -> float:
        batched = plan(test_res=(256,), arms=("none", "bn", "frechet"), batch_size=batch)
        return gpu_memory.cell_memory_need(batched, "b0", 96, 256).gb(1)

    for batch in (16, 32, 64, 128):
        found = gpu_memory.frozen_batch(there, "b0", 96, 256, cell_gb(batch))
        assert found == batch
        less = gpu_memory.frozen_batch(there, "b0", 96, 256, 0.999 * cell_gb(batch))
        assert less == max(16, batch // 2)
    assert gpu_memory.frozen_batch(there, "b0", 96, 256, 1e3) == 128


def test_an_untrained_trunk_is_only_scored_and_by_one_worker() -> None:
    need = gpu_memory.trunk_memory_need(plan(epochs=0), Point(variant="b0", train_res=96))
    assert need.gb(1) == needed_gb(forward_bytes("b0", 96, **FORWARD))
    assert need.max_workers == 1


def test_a_cell_keeps_the_features_that_its_arms_are_fitted_on() -> None:
    def features(gigabytes: float = 6.0, **options: Any) -> float:
        arms = {"train_res": (64,), "arms": ("none", "bn"), **options}
        many = plan_of(spec_with(**arms, test_res=(64,), map_gb=gigabytes), train=10**6)
        return gpu_memory.cell_memory_needs(many)["b0", 64].gb(1)

    assert features() == needed_gb(cell_bytes("b0", 64, **FORWARD, features=50, settings=0))
    assert features(arms=("fix",)) == needed_gb(
        cell_bytes("b0", 64, **FORWARD, features=10**6 + 50, settings=10)
    )
    assert features(arms=("fix", "fix_aug"), views=3) == needed_gb(
        cell_bytes("b0", 64, **FORWARD, features=3 * 10**6 + 50, settings=10)
    )
    # A million maps take 5.1 GB: where they may not, features are streamed in half precision.
    assert features(gigabytes=5.0, arms=("fix",)) == needed_gb(
        cell_bytes("b0", 64, **FORWARD, features=10**6 // 2 + 50, settings=10, has_slopes=True)
    )


def test_a_cell_that_looks_at_the_train_resolution_needs_room_for_it() -> None:
    small = {"test_res": (64,), "train_res": (64, 256)}
    plain = gpu_memory.cell_memory_needs(plan(**small, arms=("none",)))
    frechet = gpu_memory.cell_memory_needs(plan(**small, arms=("frechet",)))
    assert set(plain) == set(frechet) == {("b0", 64)}
    assert frechet["b0", 64].gb(1) == needed_gb(forward_bytes("b0", 256, **FORWARD))
    assert plain["b0", 64].gb(1) < frechet["b0", 64].gb(1)
    assert plain["b0", 64].max_workers == 1
