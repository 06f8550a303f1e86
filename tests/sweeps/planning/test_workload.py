"""The work of a plan, counted before any of it is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeps.planning.workload import (
    PROBED,
    cell_gmacs,
    cell_images,
    cell_work,
    dearest_first,
    epoch_gmacs,
    expected_gmacs_left,
    expected_trunks,
    further_crop_cells,
    gmacs_left,
    image_passes,
    probe_work,
    probes,
)
from tests.factories import plan_of, spec_with
from trainables.evaluation.kept_probe import PROBE_IMAGES
from trainables.evaluation.linear_probe import EXPECTED_LOSSES
from trainables.fixres.arms import ARMS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variants": ("b0", "b1", "b3"), "samples": 1},
        {"train_res": (64,), "test_res": (64, 96, 128, 160, 192), "samples": 3, "survivors": 2},
        {"variants": ("b0", "l2"), "samples": 2, "survivors": 9},
    ],
)
def test_passes_are_those_of_all_trunks_and_cells(options: dict[str, Any]) -> None:
    plan = plan_of(spec_with(**options))
    passes = image_passes(plan)
    assert passes["trained"] == plan.trunks * plan.spec.trunks.epochs * 120
    assert passes["adapted in cells"] == plan.cells * (120 + 50)
    scored = plan.trunks * len(plan.rungs) * len(plan.spec.grid.test_res) * 50
    assert passes["scored at rungs"] == scored


def test_an_untouched_net_costs_a_pass_over_train_and_val_a_cell_and_no_training() -> None:
    axes = {"train_res": (100,), "test_res": (100, 200), "arms": ("none", "fix_aug"), "views": 3}
    without, with_it = (plan_of(spec_with(**axes), weights=w) for w in (False, True))
    before, after = image_passes(without), image_passes(with_it)
    assert with_it.cells == without.cells + 4
    assert after.pop("adapted in cells") - before.pop("adapted in cells") == 4 * (120 + 50)
    assert after == before
    assert further_crop_cells(with_it) == further_crop_cells(without)


def test_a_probe_is_fitted_once_for_each_point_and_each_way_to_weigh_classes() -> None:
    plain, probed = plan_of(spec_with()), plan_of(spec_with(start="probe"))
    assert not any(probes(plain, point) for point in plain.points)
    assert [probes(probed, point) for point in probed.points] == [1] * len(probed.points)
    before, after = image_passes(plain), image_passes(probed)
    assert after.pop(PROBED) == 120 * len(probed.points) and after == before
    kinds = {"class_weights": {"choices": ["none", "sqrt"]}, "start": {"choices": ["probe"]}}
    several = plan_of(spec_with(space=kinds, head_class_weights=("none",), samples=5))
    assert probes(several, several.points[0]) == 2
    one = plan_of(spec_with(space=kinds, head_class_weights=("none",), samples=1))
    assert probes(one, one.points[0]) == 1
    chain = plan_of(spec_with(start="probe", cascade=True, train_res=(64, 96)))
    assert [probes(chain, point) for point in chain.points] == [1, 0]


def test_a_probe_takes_a_pass_and_a_fit_of_as_many_images_as_it_is_bounded_to() -> None:
    plan = plan_of(spec_with(start="probe", variants=("b0",)))
    point = plan.points[0]
    seen, fit = probe_work(plan, point).passes
    assert (seen.images, seen.train) == (120, False) and fit.images == 120
    assert seen.gmacs == plan.costs[point.variant, point.train_res].gmacs
    # b0 gives 1,280 numbers of an image: a product for logits, and one for gradients.
    assert fit.gmacs == pytest.approx(EXPECTED_LOSSES * 2 * 1280 * len(plan.classes) / 1e9)
    large = replace(plan, counts={**plan.counts, "train": 10**6})
    assert [one.images for one in probe_work(large, point).passes] == [PROBE_IMAGES] * 2


@pytest.mark.parametrize("reduction", [2, 3, 4])
@pytest.mark.parametrize(("epochs", "grace"), [(1, 1), (6, 2), (9, 1), (20, 2), (5, 9)])
def test_work_adds_up_and_cuts_only_save(epochs: int, grace: int, reduction: int) -> None:
    plan = plan_of(
        spec_with(
            train_res=(100,),
            test_res=(100, 200),
            epochs=epochs,
            grace_epochs=grace,
            reduction=reduction,
            samples=7,
        )
    )
    (point,) = plan.points
    rungs = plan.rungs
    # By hand: 1 GMAC at 100 px, 4 at 200 px; 120 images three times over, 50 scored at 1 + 4.
    epoch_work = [360 + (250 if e in rungs else 0) for e in range(1, epochs + 1)]
    assert [epoch_gmacs(plan, point, e) for e in range(1, epochs + 1)] == epoch_work
    for after in range(epochs + 1):
        assert gmacs_left(plan, point, after) == sum(epoch_work[after:])
    trunks = [plan.samples]
    for rung in rungs[:-1]:  # each epoch from one rung to the next, by as many trunks
        trunks += [trunks[-1]] * (rung - len(trunks))
        trunks.append(max(1, trunks[-1] // reduction))
    trunks += [trunks[-1]] * (epochs - len(trunks))
    assert [expected_trunks(plan, point, e) for e in range(1, epochs + 1)] == trunks
    by_epoch = [n * work for n, work in zip(trunks, epoch_work, strict=True)]
    assert expected_gmacs_left(plan, point) == sum(by_epoch)
    assert sum(by_epoch) <= plan.samples * gmacs_left(plan, point)
    assert epoch_gmacs(plan, point, 0) == 0


@pytest.mark.parametrize(
    ("arms", "images"),
    [
        (("none",), 50),
        (("none", "pool"), 50),
        (("none", "fix"), 170),
        (("none", "frechet"), 170),  # train has fewer images than a sample may
        (("bn", "frechet", "fix", "fix_affine"), 170),
        (("fix_aug",), 170 + 3 * 120),
        (("none_flip",), 2 * 50),
        (("none", "fix", "none_flip", "fix_flip"), 170 + 50),  # val mirrored, once
    ],
)
def test_a_cells_work_is_its_passes(arms: tuple[str, ...], images: int) -> None:
    plan = plan_of(spec_with(arms=arms, views=3, train_res=(100,), test_res=(100, 200)))
    assert cell_images(plan) == images
    assert cell_gmacs(plan, "b0", 200) == 4 * images


@pytest.mark.parametrize(
    ("variant", "arms", "map_gb", "passes"),
    [
        ("timm:seresnet18", ("bn", "fix"), 1e-6, 2),
        ("timm:seresnet18", ("bn",), 1e-6, 1),
        ("timm:seresnet18", ("fix",), 4.0, 1),
        ("timm:resnet18", ("fix",), 1e-6, 1),
    ],
)
def test_streamed_features_that_are_not_corrected_cost_a_pass_of_their_own(
    variant: str, arms: tuple[str, ...], map_gb: float, passes: int
) -> None:
    """Squeeze-and-excite after the last norm mixes channels."""
    options = {"variants": (variant,), "arms": arms, "map_gb": map_gb}
    plan = plan_of(spec_with(**options, train_res=(100,), test_res=(100,)), train=2000)
    images = passes * 2000 + 50
    assert cell_gmacs(plan, variant, 100) == images
    assert sum(part.images for part in cell_work(plan, variant, 100).passes) == images


def test_frechet_alone_passes_over_a_sample_of_train() -> None:
    plan = plan_of(spec_with(arms=("none", "frechet"), train_res=(100,), test_res=(100,)))
    large = replace(plan, counts={**plan.counts, "train": 10**6})
    assert cell_images(large) == ARMS["frechet"].sampled + plan.counts["val"]
    assert cell_images(large, ("frechet", "bn")) == 10**6 + plan.counts["val"]


def test_points_are_ordered_by_their_cost_in_whatever_order_they_are_typed() -> None:
    axes = {"variants": ("b0", "b1", "b0_ap"), "train_res": (64, 128, 100)}
    plan = plan_of(spec_with(**axes))
    same = {key: plan.costs["b0", key[1]] for key in plan.costs}
    orders = []
    for kinds in (("b0", "b1", "b0_ap"), ("b0_ap", "b0", "b1")):
        for resolutions in ((64, 128, 100), (128, 100, 64)):
            typed = plan_of(spec_with(variants=kinds, train_res=resolutions))
            orders.append(dearest_first(replace(typed, costs=plan.costs)))
            by_size = [p.train_res for p in dearest_first(replace(typed, costs=same))]
            assert by_size == [128] * 3 + [100] * 3 + [64] * 3
    assert len(set(orders)) == 1 and set(orders[0]) == set(plan.points)
    cost = [plan.costs[p.variant, p.train_res].gmacs for p in orders[0]]
    assert cost == sorted(cost, reverse=True)


def test_a_further_crop_costs_its_cells_and_nothing_at_rungs() -> None:
    axes = {"train_res": (100,), "test_res": (100, 200), "samples": 2}
    one, two = (plan_of(spec_with(test_crop_pct=c, **axes)) for c in ((1.0,), (0.8, 1.0)))
    assert (further_crop_cells(one), further_crop_cells(two)) == (0, 2)
    before, after = image_passes(one), image_passes(two)
    assert after["scored at rungs"] == before["scored at rungs"]
    assert after["adapted in cells"] == 2 * before["adapted in cells"]


def test_untrained_nets_are_scored_once_and_one_a_point() -> None:
    plan = plan_of(spec_with(epochs=0, train_res=(100,), test_res=(100, 200), samples=5))
    assert plan.trunks == 1 and plan.rungs == (0,)
    assert epoch_gmacs(plan, plan.points[0], 0) == 50 * (1 + 4)
    assert image_passes(plan)["trained"] == 0
