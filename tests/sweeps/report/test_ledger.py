"""What was spent and what sharing saved, by closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from sweeps.events.event_types import CellEnded, TrunkEnded
from sweeps.events.recorders import History
from sweeps.planning.plan import Plan
from sweeps.report.ledger import ImagePasses, Ledger, build_ledger, duration
from sweeps.selection.leaderboard import Row
from tests.sweeps.planning.test_plan import plan_of
from tests.sweeps.planning.test_spec import spec_with
from tests.sweeps.selection.test_leaderboard import a_row
from trainables.evaluation.metrics import Score
from trainables.training.trunk import EpochReport, Hyper, TrunkSpec

TRAIN, VAL = 1000, 200
ARMS = ("none", "crop1", "bn", "fix")
# Of each arm of a cell. A pass over val takes 2 s, one over train 20 s: 0.01 or 0.02 s an image.
SECONDS = {"none": 5.0, "crop1": 2.0, "pool": 0.1, "bn": 20.0, "frechet": 30.0, "fix": 3.0}
SECONDS |= {"fix_aug": 40.0, "fix_affine": 9.0}


def a_plan(arms: Sequence[str] = ARMS, **options: object) -> Plan:
    """Two points; four test resolutions each."""
    grid = {"variants": ("b0",), "train_res": (64, 96), "test_res": (64, 96, 128, 160)}
    spec = spec_with(**{**grid, "epochs": 6, "samples": 2, "arms": arms, **options})
    return plan_of(spec, train=TRAIN, val=VAL)


def a_trunk(plan: Plan, point: int, lr: float) -> TrunkSpec:
    return plan.trunk(plan.points[point], Hyper(lr=lr, weight_decay=0.01, label_smoothing=0.1))


def ended(trunk: TrunkSpec, seconds: Sequence[float], why: str = "finished") -> TrunkEnded:
    """An epoch for each of ``seconds``, val scored at two test resolutions in the second."""
    score = Score(split="val", n=VAL, hits1=100, hits5=150)
    reports = tuple(
        EpochReport(
            epoch=epoch, loss=1.0, train_top1=0.5, images=TRAIN, lr=1e-3, seconds=s, at=0,
            val={64: score, 96: score} if epoch == 2 else {},
        )
        for epoch, s in enumerate(seconds, start=1)
    )  # fmt: skip
    return TrunkEnded(trunk=trunk, why=why, reports=reports)


def a_cell(
    plan: Plan,
    trunk: TrunkSpec,
    res: int,
    tried: int = 30,
    seconds: Mapping[str, float] | None = None,
) -> CellEnded:
    cell = plan.cell(trunk.variant, trunk.key, res)
    rows = tuple(
        a_row(
            train_res=trunk.train_res, test_res=res, arm=arm, trunk=trunk.key, cell=cell.key,
            seconds=(SECONDS | dict(seconds or {}))[arm],
            head_tried=tried if arm.startswith("fix") else 0,
        )
        for arm in plan.spec.fix.arms
    )  # fmt: skip
    return CellEnded(cell=cell, trunk=trunk, rows=rows)


def of(plan: Plan, *events: TrunkEnded | CellEnded, price: float | None = None) -> Ledger:
    history = History()
    rows: list[Row] = []
    for event in events:
        history.on(event)
        rows += event.rows if isinstance(event, CellEnded) else ()
    rows += [a_row(split="test", seconds=4.0), a_row(split="sketches", seconds=1.5)]
    return build_ledger(plan, history, rows, price)


def test_what_was_spent_is_the_sum_of_its_parts() -> None:
    plan = a_plan()
    whole, cut = (a_trunk(plan, 0, lr) for lr in (1e-3, 2e-3))
    found = of(
        plan,
        ended(whole, [10.0] * 6),
        ended(cut, [8.0, 12.0], "cut"),
        a_cell(plan, whole, 64),
        a_cell(plan, whole, 128),
    )
    assert (found.trunks, found.cut, found.cells) == (2, 1, 2)
    assert found.trained_s == 80.0
    assert found.adapted_s == 2 * (5 + 2 + 20 + 3)
    assert found.read_s == 5.5
    assert found.spent_s == 80.0 + 60.0 + 5.5


def test_what_a_cut_left_undone_is_its_own_seconds_an_epoch_times_what_is_missing() -> None:
    plan = a_plan()
    first, second, third = (a_trunk(plan, 0, lr) for lr in (1e-3, 2e-3, 3e-3))
    found = of(
        plan,
        ended(first, [8.0, 12.0], "cut"),
        ended(second, [3.0] * 5, "cut"),
        ended(third, [50.0], "diverged"),
    )
    assert found.undone_s == 4 * 10.0 + 1 * 3.0


def test_images_done_stand_beside_those_planned() -> None:
    plan = a_plan()
    whole, cut = (a_trunk(plan, 0, lr) for lr in (1e-3, 2e-3))
    found = of(
        plan,
        ended(whole, [10.0] * 6),
        ended(cut, [8.0, 12.0], "cut"),
        a_cell(plan, whole, 64),
        CellEnded(cell=plan.cell("b0", whole.key, 96), trunk=whole, rows=(), error="failed"),
    )
    assert list(found.images) == list(plan.image_passes)
    # Planned: 4 trunks of 6 epochs; scored after 2 and 6 at 4 resolutions; 8 cells, of one pass
    # over train and, as the crop of b0's weights is another, two over val.
    assert found.images == {
        "trained": ImagePasses(planned=4 * 6 * TRAIN, done=8 * TRAIN),
        "scored at rungs": ImagePasses(planned=4 * 2 * 4 * VAL, done=2 * 2 * VAL),
        "adapted in cells": ImagePasses(planned=8 * (TRAIN + 2 * VAL), done=TRAIN + 2 * VAL),
    }


@pytest.mark.parametrize("tests", [(64,), (64, 96), (64, 96, 128, 160)])
def test_a_trunk_is_spared_its_training_for_each_further_test_resolution(
    tests: tuple[int, ...],
) -> None:
    plan = a_plan(test_res=tests)
    events = [
        ended(a_trunk(plan, 0, 1e-3), [10.0] * 6),
        ended(a_trunk(plan, 1, 1e-3), [7.0], "cut"),
    ]
    assert of(plan, *events).saved_trunks_s == pytest.approx((len(tests) - 1) * 67.0)


def test_untrained_trunks_share_no_training() -> None:
    plan = a_plan(epochs=0)
    trunk = a_trunk(plan, 0, 1e-3)
    report = EpochReport(epoch=0, loss=None, train_top1=None, images=0, lr=0, seconds=9.0, at=0)
    found = of(plan, TrunkEnded(trunk=trunk, why="finished", reports=(report,)))
    assert found.saved_trunks_s == 0 and found.trained_s == 9.0


def test_a_cell_is_spared_a_pass_for_each_setting_and_epoch_that_was_tried() -> None:
    plan = a_plan()
    trunk = a_trunk(plan, 0, 1e-3)
    found = of(plan, a_cell(plan, trunk, 64, tried=30), a_cell(plan, trunk, 96, tried=5))
    took = TRAIN + 2 * VAL
    assert found.saved_images == 35 * (TRAIN + VAL) - 2 * took
    # Both passes: 0.01 s an image.
    assert found.saved_passes_s == pytest.approx(0.01 * found.saved_images)
    assert found.alone_s == pytest.approx(found.spent_s + 0.01 * found.saved_images)


def test_the_augmented_views_are_passes_that_the_cell_took() -> None:
    plan = a_plan(arms=("crop1", "bn", "fix", "fix_aug"), views=3)
    found = of(plan, a_cell(plan, a_trunk(plan, 0, 1e-3), 64, tried=20))
    assert found.saved_images == 2 * 20 * (TRAIN + VAL) - (4 * TRAIN + VAL)


def test_of_an_arm_that_trains_on_maps_nothing_is_claimed() -> None:
    plan = a_plan(arms=("crop1", "bn", "fix", "fix_affine"))
    found = of(plan, a_cell(plan, a_trunk(plan, 0, 1e-3), 64, tried=20))
    assert found.saved_images == 20 * (TRAIN + VAL) - (TRAIN + VAL)


@pytest.mark.parametrize(
    ("arms", "seconds", "rate"),
    [
        (ARMS, {}, 0.01),
        (ARMS, {"crop1": 5.0}, 0.02),  # bn's pass over train was the faster
        (ARMS, {"bn": 40.0}, 0.01),  # its pass over train had pixels to resize first
        (("crop1", "fix"), {"fix": 900.0}, 0.01),  # fix is a pass and a fit
        (("bn", "fix"), {"bn": 24.0}, 0.02),  # both passes
        (("crop1", "pool", "bn", "frechet", "fix"), {"frechet": 0.1}, 0.01),  # on kept maps
        (("none", "fix"), {"none": 0.2}, None),  # another crop
        (("fix",), {}, None),
    ],
)
def test_an_image_takes_what_a_pass_that_is_timed_by_itself_took(
    arms: tuple[str, ...], seconds: dict[str, float], rate: float | None
) -> None:
    plan = a_plan(arms=arms)
    found = of(plan, a_cell(plan, a_trunk(plan, 0, 1e-3), 64, seconds=seconds))
    assert found.saved_images > 0
    if rate is None:
        assert found.saved_passes_s is None and found.alone_s == found.spent_s
    else:
        assert found.saved_passes_s == pytest.approx(rate * found.saved_images)


def test_where_the_weights_own_crop_is_the_tests_none_waits_for_the_pass() -> None:
    plan = a_plan(arms=("none", "crop1", "fix"), test_crop_pct=0.875)  # b0's own
    cell = a_cell(plan, a_trunk(plan, 0, 1e-3), 64, seconds={"none": 4.0, "crop1": 0.001})
    found = of(plan, cell)
    assert found.saved_images == 30 * (TRAIN + VAL) - (TRAIN + VAL)
    assert found.saved_passes_s == pytest.approx(0.02 * found.saved_images)


def test_without_classifiers_nothing_is_saved_there() -> None:
    plan = a_plan(arms=("none", "crop1", "bn"))
    found = of(plan, a_cell(plan, a_trunk(plan, 0, 1e-3), 64))
    assert (found.saved_images, found.saved_passes_s) == (0, 0.0)


def test_money_is_hours_times_the_price() -> None:
    plan = a_plan()
    event = ended(a_trunk(plan, 0, 1e-3), [600.0] * 6)
    assert of(plan, event, price=2.5).money(7200.0) == pytest.approx(5.0)
    assert of(plan, event, price=0.0).money(7200.0) == 0.0
    assert of(plan, event).money(7200.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (3.77, "3.8 s"),
        (119.4, "119 s"),
        (120.0, "2.0 min"),
        (3600.0, "60 min"),
        (7200.0, "2.0 h"),
        (7.2e6, "2,000 h"),
    ],
)
def test_durations_are_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
