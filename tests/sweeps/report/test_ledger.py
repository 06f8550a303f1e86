"""What was spent and what sharing saved, by closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.events.event_types import CellEnded, TrunkEnded
from sweeps.events.recorders import History
from sweeps.planning.plan import Plan
from sweeps.planning.workload import PROBED, image_passes
from sweeps.report.ledger import ImagePasses, Ledger, build_ledger
from sweeps.report.tables import times_table
from sweeps.selection.leaderboard import Row
from tests.factories import (
    LEDGER_ARMS,
    LEDGER_TRAIN,
    LEDGER_VAL,
    a_ledger_plan,
    a_ledger_trunk,
    a_row,
    an_ended_cell,
    an_ended_trunk,
)
from trainables.training.trunk import EpochReport, TrunkStatus


def of(plan: Plan, *events: TrunkEnded | CellEnded, price: float | None = None) -> Ledger:
    history = History()
    rows: list[Row] = []
    for event in events:
        history.on(event)
        rows += event.rows if isinstance(event, CellEnded) else ()
    rows += [a_row(split="test", seconds=4.0), a_row(split="sketches", seconds=1.5)]
    return build_ledger(plan, history, rows, read_s=7.0, refit_s=0.0, price_per_hour=price)


def test_what_was_spent_is_the_sum_of_its_parts() -> None:
    plan = a_ledger_plan()
    whole, cut = (a_ledger_trunk(plan, 0, lr) for lr in (1e-3, 2e-3))
    found = of(
        plan,
        an_ended_trunk(whole, [10.0] * 6),
        an_ended_trunk(cut, [8.0, 12.0], TrunkStatus.CUT),
        an_ended_cell(plan, whole, 64),
        an_ended_cell(plan, whole, 128),
    )
    assert (found.trunks, found.cut, found.cells) == (2, 1, 2)
    assert found.trained_s == 80.0
    assert found.adapted_s == 2 * (2 + 20 + 3)
    assert found.read_s == 7.0  # other nets than those of the rows may have been read
    assert found.spent_s == 80.0 + 50.0 + 7.0


def test_trunks_whose_norms_stood_still_are_counted_and_told() -> None:
    plan = a_ledger_plan()
    ended = an_ended_trunk(a_ledger_trunk(plan, 0, 1e-3), [10.0, 10.0])
    still = [replace(report, frozen_norms=True) for report in ended.reports]
    for trunk, count in ((ended, 0), (replace(ended, reports=tuple(still)), 1)):
        found = of(plan, trunk)
        assert found.frozen == count
        assert ("batch norms stood still" in str(times_table(found).lines)) == bool(count)


def test_what_a_cut_left_undone_is_its_own_seconds_an_epoch_times_what_is_missing() -> None:
    plan = a_ledger_plan()
    first, second, third = (a_ledger_trunk(plan, 0, lr) for lr in (1e-3, 2e-3, 3e-3))
    found = of(
        plan,
        an_ended_trunk(first, [8.0, 12.0], TrunkStatus.CUT),
        an_ended_trunk(second, [3.0] * 5, TrunkStatus.CUT),
        an_ended_trunk(third, [50.0], TrunkStatus.DIVERGED),
    )
    assert found.undone_s == 4 * 10.0 + 1 * 3.0


def test_images_done_stand_beside_those_planned() -> None:
    plan = a_ledger_plan()
    whole, cut = (a_ledger_trunk(plan, 0, lr) for lr in (1e-3, 2e-3))
    found = of(
        plan,
        an_ended_trunk(whole, [10.0] * 6),
        an_ended_trunk(cut, [8.0, 12.0], TrunkStatus.CUT),
        an_ended_cell(plan, whole, 64),
        CellEnded(cell=plan.cell(whole, 6, 96, 1.0), rows=(), error="failed"),
    )
    assert list(found.images) == list(image_passes(plan))
    # Planned: 4 trunks of 6 epochs; scored after 2 and 6 at 4 resolutions; 8 cells, of one pass
    # over train and one over val.
    assert found.images == {
        "trained": ImagePasses(planned=4 * 6 * LEDGER_TRAIN, done=8 * LEDGER_TRAIN),
        "scored at rungs": ImagePasses(planned=4 * 2 * 4 * LEDGER_VAL, done=2 * 2 * LEDGER_VAL),
        "adapted in cells": ImagePasses(
            planned=8 * (LEDGER_TRAIN + LEDGER_VAL), done=LEDGER_TRAIN + LEDGER_VAL
        ),
    }


def test_a_probe_counts_where_it_was_fitted() -> None:
    plan = a_ledger_plan(start="probe")
    first, second = (an_ended_trunk(a_ledger_trunk(plan, 0, lr), [2.0]) for lr in (1e-3, 2e-3))
    fitting = replace(first, reports=(replace(first.reports[0], probe_s=5.0),))
    waiting = replace(second, reports=(replace(second.reports[0], probe_wait_s=3.0),))
    found = of(plan, fitting, waiting)
    assert found.trained_s == 2.0 + 5.0 + 2.0 + 3.0
    planned = LEDGER_TRAIN * len(plan.points)
    assert found.images[PROBED] == ImagePasses(planned=planned, done=LEDGER_TRAIN)


@pytest.mark.parametrize("tests", [(64,), (64, 96), (64, 96, 128, 160)])
def test_a_trunk_is_spared_its_training_for_each_further_test_resolution(
    tests: tuple[int, ...],
) -> None:
    plan = a_ledger_plan(test_res=tests)
    events = [
        an_ended_trunk(a_ledger_trunk(plan, 0, 1e-3), [10.0] * 6),
        an_ended_trunk(a_ledger_trunk(plan, 1, 1e-3), [7.0], TrunkStatus.CUT),
    ]
    assert of(plan, *events).saved_trunks_s == pytest.approx((len(tests) - 1) * 67.0)


def test_untrained_trunks_share_no_training() -> None:
    plan = a_ledger_plan(epochs=0)
    trunk = a_ledger_trunk(plan, 0, 1e-3)
    report = EpochReport(epoch=0, loss=None, train_top1=None, images=0, lr=0, seconds=9.0, at=0)
    found = of(plan, TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=(report,)))
    assert found.saved_trunks_s == 0 and found.trained_s == 9.0


def test_a_cell_is_spared_a_pass_for_each_setting_and_epoch_that_was_tried() -> None:
    plan = a_ledger_plan()
    trunk = a_ledger_trunk(plan, 0, 1e-3)
    found = of(
        plan, an_ended_cell(plan, trunk, 64, tried=30), an_ended_cell(plan, trunk, 96, tried=5)
    )
    took = LEDGER_TRAIN + LEDGER_VAL
    assert found.saved_images == 35 * (LEDGER_TRAIN + LEDGER_VAL) - 2 * took
    # Both passes: 0.01 s an image.
    assert found.saved_passes_s == pytest.approx(0.01 * found.saved_images)
    assert found.alone_s == pytest.approx(found.spent_s + 0.01 * found.saved_images)


def test_the_augmented_views_are_passes_that_the_cell_took() -> None:
    plan = a_ledger_plan(arms=("none", "bn", "fix", "fix_aug"), views=3)
    found = of(plan, an_ended_cell(plan, a_ledger_trunk(plan, 0, 1e-3), 64, tried=20))
    assert found.saved_images == 2 * 20 * (LEDGER_TRAIN + LEDGER_VAL) - (
        4 * LEDGER_TRAIN + LEDGER_VAL
    )


def test_of_an_arm_that_trains_on_maps_nothing_is_claimed() -> None:
    plan = a_ledger_plan(arms=("none", "bn", "fix", "fix_affine"))
    found = of(plan, an_ended_cell(plan, a_ledger_trunk(plan, 0, 1e-3), 64, tried=20))
    assert found.saved_images == 20 * (LEDGER_TRAIN + LEDGER_VAL) - (LEDGER_TRAIN + LEDGER_VAL)


@pytest.mark.parametrize(
    ("arms", "seconds", "rate"),
    [
        (LEDGER_ARMS, {}, 0.01),
        (LEDGER_ARMS, {"none": 5.0}, 0.02),  # bn's pass over train was the faster
        (LEDGER_ARMS, {"bn": 40.0}, 0.01),  # its pass over train had pixels to resize first
        (("none", "fix"), {"fix": 900.0}, 0.01),  # fix is a pass and a fit
        (("bn", "fix"), {"bn": 24.0}, 0.02),  # both passes
        (("none", "pool", "bn", "frechet", "fix"), {"frechet": 0.1}, 0.01),  # on kept maps
        (("none", "fix"), {"none": 0.2}, 0.001),
        (("fix",), {}, None),
    ],
)
def test_an_image_takes_what_a_pass_that_is_timed_by_itself_took(
    arms: tuple[str, ...], seconds: dict[str, float], rate: float | None
) -> None:
    plan = a_ledger_plan(arms=arms)
    found = of(plan, an_ended_cell(plan, a_ledger_trunk(plan, 0, 1e-3), 64, seconds=seconds))
    assert found.saved_images > 0
    if rate is None:
        assert found.saved_passes_s is None and found.alone_s == found.spent_s
    else:
        assert found.saved_passes_s == pytest.approx(rate * found.saved_images)


def test_without_classifiers_nothing_is_saved_there() -> None:
    plan = a_ledger_plan(arms=("none", "bn"))
    found = of(plan, an_ended_cell(plan, a_ledger_trunk(plan, 0, 1e-3), 64))
    assert (found.saved_images, found.saved_passes_s) == (0, 0.0)


def test_money_is_hours_times_the_price() -> None:
    plan = a_ledger_plan()
    event = an_ended_trunk(a_ledger_trunk(plan, 0, 1e-3), [600.0] * 6)
    assert of(plan, event, price=2.5).money(7200.0) == pytest.approx(5.0)
    assert of(plan, event, price=0.0).money(7200.0) == 0.0
    assert of(plan, event).money(7200.0) is None
