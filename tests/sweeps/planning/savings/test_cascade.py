"""A trunk that starts from another says so wherever it is named; so does the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeps.events.durations import Durations
from sweeps.events.forecast import forecast
from sweeps.output.disk_space import disk_needs
from sweeps.planning.cell import trunk_in_words
from sweeps.planning.grid import Point
from sweeps.planning.savings.cascade import cascade_in_words, cascade_to_be_in_words
from sweeps.planning.workload import expected_gmacs_left, gmacs_left, image_passes
from sweeps.report.model_card import model_card
from sweeps.selection.leaderboard import from_record, make_row, to_record
from sweeps.terminal.plan_tables import plan_view
from sweeps.tracking.payloads import (
    Results,
    cell_params,
    result_note,
    result_tags,
    trunk_params,
    trunk_tags,
)
from tests.factories import HYPER, file_console, output_of, plan_of, spec_with
from tests.sweeps.report.finished_sweep import PLAN as SWEPT
from tests.sweeps.report.finished_sweep import an_outcome
from tests.sweeps.report.test_page import made
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult
from trainables.training.trunk import Parent

SPEC = spec_with(
    variants=("b0", "b1"), train_res=(64, 96, 128), test_res=(96,), epochs=9, samples=3,
    grace_epochs=1, cascade=True,
)  # fmt: skip
PLAN = plan_of(SPEC)
PLAIN = plan_of(replace(SPEC, grid=replace(SPEC.grid, cascade=False)))
SMALL, MIDDLE, LARGE = (Point(variant="b1", train_res=res) for res in (64, 96, 128))
TWO_POINTS = {
    **dict.fromkeys(("lr", "weight_decay", "label_smoothing"), 0.01),
    "batch_size": {"choices": [8, 16]},
}
PARENT = Parent(trunk="0123456789abcdef", train_res=64)


def test_each_point_but_the_smallest_of_a_variant_cascades() -> None:
    assert {p.train_res for p in PLAN.cascading} == {96, 128} and len(PLAN.cascading) == 4
    assert [PLAN.below(p) for p in (SMALL, MIDDLE, LARGE)] == [None, SMALL, MIDDLE]
    assert PLAIN.cascading == () and PLAIN.below(LARGE) is None


def test_epochs_and_rungs_are_the_points_own() -> None:
    assert (PLAN.epochs_at(SMALL), PLAN.epochs_at(LARGE)) == (9, 4)
    assert (PLAN.rungs_at(SMALL), PLAN.rungs_at(LARGE)) == ((1, 3, 9), (1, 3, 4))
    given = plan_of(spec_with(SPEC, cascade_epochs=1))
    assert given.rungs_at(LARGE) == (1,) and given.rungs_at(SMALL) == (1, 3, 9)
    assert plan_of(spec_with(SPEC, epochs=1)).epochs_at(LARGE) == 1


def test_a_trunk_with_a_parent_has_its_epochs_and_another_key() -> None:
    child, plain = (PLAN.trunk(LARGE, HYPER, parent=parent) for parent in (PARENT, None))
    assert (child.recipe.epochs, plain.recipe.epochs) == (4, 9) and child.parent == PARENT
    assert plain == PLAIN.trunk(LARGE, HYPER) and child.key != plain.key


def test_the_price_is_that_of_the_epochs_to_be_trained() -> None:
    for point in PLAN.points:
        per_epoch = 3 * 120 * PLAN.costs[point.variant, point.train_res].gmacs
        val = 50 * PLAN.costs[point.variant, 96].gmacs
        epochs, scored = (4, 3) if PLAN.below(point) else (9, 3)
        assert abs(gmacs_left(PLAN, point) - epochs * per_epoch - scored * val) < 1e-6
        assert (expected_gmacs_left(PLAN, point) < expected_gmacs_left(PLAIN, point)) == bool(
            PLAN.below(point)
        )
    assert image_passes(PLAN)["trained"] == 3 * 120 * 2 * (9 + 4 + 4)
    few = plan_of(spec_with(SPEC, cascade_samples=1))
    assert image_passes(few)["trained"] == 120 * 2 * (3 * 9 + 4 + 4)
    assert few.trunks == 2 * (3 + 1 + 1) and few.samples_at(LARGE) == 1 < few.samples_at(SMALL)
    of_few, of_all = (disk_needs(plan, 4) for plan in (few, PLAN))
    assert of_few.trunks < of_all.trunks and of_few.waiting < of_all.waiting
    ours, whole = (forecast(plan, Durations(plan)) for plan in (PLAN, PLAIN))
    assert ours.trunks_s < whole.trunks_s and ours.cells_s == whole.cells_s


def test_trunks_cells_and_rows_are_marked() -> None:
    trunk = PLAN.trunk(LARGE, HYPER, parent=PARENT)
    assert trunk_in_words(trunk) == "b1 at 128 px from 64, lr 0.001"
    cell = PLAN.cell(trunk, 4, 96, 0.9)
    assert cell.label == "b1 128 (from 64) -> 96 px, crop 0.9"
    score = Score(split="val", n=50, hits1=30, hits5=50)
    row = make_row(cell, PLAN.costs["b1", 96], ArmResult(arm="none", score=score, seconds=1.0))
    assert (row.parent, row.parent_res, row.label) == (PARENT.trunk, 64, cell.label)
    assert from_record(to_record(row)) == row
    params = {**trunk_params(trunk), **cell_params(cell)}
    assert params["with_parent_res"] == 64 and trunk_tags(trunk)["parent"] == PARENT.trunk
    plain = PLAN.trunk(LARGE, HYPER)
    assert trunk_params(trunk).keys() - trunk_params(plain).keys() == {"with_parent_res"}
    assert trunk_tags(trunk).keys() - trunk_tags(plain).keys() == {"parent"}


def test_the_plan_says_what_starts_from_what() -> None:
    words = cascade_to_be_in_words(SPEC, PLAN.cascading, len(PLAN.points), (3, 3))
    assert words.startswith("trunks of 4 of 6 variants and train resolutions start from")
    assert "take 4 epoch(s) in place of 9" in words
    assert cascade_to_be_in_words(SPEC, (), 6, (3, 3)) == ""
    console = file_console()
    console.print(plan_view(PLAN))
    assert f"cascade  {words}" in output_of(console)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cascade_samples": 1}, "; there are 1 of each in place of 3\n"),
        (
            {"cascade_samples": 1, "samples": 9, "space": TWO_POINTS},
            "; there are 1 of each in place of 2\n",
        ),
        ({"cascade_samples": 3}, "\n"),
        ({"cascade_samples": 5, "samples": 9, "space": TWO_POINTS}, "\n"),
    ],
)
def test_the_plan_says_where_there_are_fewer_trunks(options: dict[str, Any], said: str) -> None:
    console = file_console()
    console.print(plan_view(plan_of(spec_with(SPEC, **options))))
    assert f"take 4 epoch(s) in place of 9{said}" in output_of(console)


def test_the_result_says_what_started_from_what_and_what_did_not() -> None:
    words = cascade_in_words(SPEC, {MIDDLE: PARENT, LARGE: None}, 6)
    assert "trunks of 1 of 6 variants and train resolutions started from one of a smaller" in words
    assert "(b1 at 96 from 64)" in words and "those of b1 at 128 started from the weights" in words
    assert cascade_in_words(SPEC, {}, 6) == ""
    found = replace(an_outcome(), cascade=words)
    assert words in model_card(SWEPT, found, {}, "heatmap.png") and words in made(found)
    results = Results(choice=found.choice, rows=found.rows, cascade=words)
    assert result_tags(results)["cascade"] == words and words in result_note(results, [], "plan")
