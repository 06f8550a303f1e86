"""The learning curves show what trunks reported, and can be read."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from sweeps.report.learning_curves import plot_learning_curves
from tests.sweeps.report.drawn import (
    FOUR,
    a_trunk,
    assert_readable,
    assert_same_each_time,
    panels,
    points,
    rings,
    words,
)
from trainables.evaluation.metrics import Score
from trainables.models.variants import VARIANTS
from trainables.training.trunk import EpochReport, TrunkStatus


def courses(ax: Axes) -> list[list[tuple[float, float]]]:
    """The lines of trunks: not rungs, marks or rings."""
    found = [points(line) for line in ax.lines if line.get_linestyle() == "-"]
    return [course for course in found if len({x for x, _ in course}) == len(course)]


def test_lines_are_the_best_val_top1_and_the_losses_of_each_trunk() -> None:
    figure = plot_learning_curves(FOUR, FOUR[0].trunk.key, (2, 4))
    val, loss = panels(figure)
    tops = [
        [(r.epoch, 100 * max(s.top1 for s in r.val.values())) for r in t.reports if r.val]
        for t in FOUR
    ]
    assert courses(val) == [[pytest.approx(p) for p in course] for course in tops]
    losses = [[(r.epoch, r.loss) for r in t.reports if r.loss is not None] for t in FOUR]
    assert courses(loss) == losses
    assert val.get_title(loc="left") == "b0, 128 px: 4 trunks"
    assert "1 cut ×, 1 diverged ▾" in words(figure)
    assert loss.get_ylim()[1] < 9  # what diverges does not flatten the others
    assert words(figure).count("rung") == 1
    assert figure.get_suptitle() == "How 4 trunks learned (val, n = 100)"
    for ax in (val, loss):
        crosses = [p for line in ax.lines if line.get_marker() == "x" for p in points(line)]
        course = tops[1] if ax is val else losses[1]
        assert crosses == [pytest.approx(course[-1])]


def test_the_chosen_trunk_is_ringed_and_the_best_of_a_panel_named() -> None:
    other = FOUR[3]
    val, _ = panels(plot_learning_curves(FOUR, other.trunk.key, (2, 4)))
    assert rings(val) == [pytest.approx((4, 68))]
    names = [t.get_text() for t in val.texts if "lr" in t.get_text()]
    assert sorted(names) == ["chosen\nlr 0.004", "lr 0.001"]
    bold = max((line for line in val.lines), key=lambda line: line.get_linewidth())
    assert points(bold) == [pytest.approx(p) for p in ((2, 55), (4, 68))]
    val, _ = panels(plot_learning_curves(FOUR, FOUR[0].trunk.key, (2, 4)))
    assert [t.get_text() for t in val.texts if "lr" in t.get_text()] == ["chosen\nlr 0.001"]


def test_what_finished_comes_before_what_was_cut_with_a_better_top1() -> None:
    trunks = [a_trunk(), a_trunk(lr=2e-3, status=TrunkStatus.CUT, tops={2: 90}, losses=(1.0, 0.9))]
    val, _ = panels(plot_learning_curves(trunks, "none of them", (2, 4)))
    assert [t.get_text() for t in val.texts if "lr" in t.get_text()] == ["lr 0.001"]
    assert rings(val) == []


def test_a_point_each_has_its_panel_in_the_familys_order() -> None:
    trunks = [a_trunk(v, res) for v, res in (("b1", 64), ("b0", 96), ("b1", 32), ("b0", 64))]
    figure = plot_learning_curves(trunks, trunks[0].trunk.key, (2, 4))
    titles = [ax.get_title(loc="left") for ax in panels(figure) if ax.get_title(loc="left")]
    assert [t.partition(":")[0] for t in titles] == [
        "b0, 64 px", "b0, 96 px", "b1, 32 px", "b1, 64 px",
    ]  # fmt: skip
    assert len(panels(figure)) == 8  # with losses
    assert len({ax.get_ylim() for ax in panels(figure)}) == 2
    assert len({ax.get_xlim() for ax in panels(figure)}) == 1


def test_of_many_points_the_best_and_the_chosen_are_shown_and_it_is_said() -> None:
    trunks = [
        a_trunk(v, res, tops={2: 20, 4: 30 + i})
        for i, (v, res) in enumerate(product(tuple(VARIANTS)[:18], (64, 96, 128)))
    ]
    figure = plot_learning_curves(trunks, trunks[0].trunk.key, (2, 4))
    shown = panels(figure)
    assert 8 < len(shown) < 54
    titles = {ax.get_title(loc="left").partition(":")[0] for ax in shown}
    best = [trunks[0], *trunks[-(len(shown) - 1) :]]
    assert titles == {f"{t.trunk.variant}, {t.trunk.train_res} px" for t in best}
    assert any(f"{len(shown)} of 54 points shown" in w for w in words(figure))
    assert figure.get_size_inches()[1] <= 10
    assert_readable(figure)


def test_a_pretrained_net_as_it_is_and_a_failed_trunk_can_be_drawn() -> None:
    one = a_trunk(losses=(None,), tops={})
    at_start = EpochReport(
        epoch=0, loss=None, train_top1=None, images=0, lr=0.0, seconds=1.0, at=0,
        val={64: Score(split="val", n=100, hits1=60, hits5=90)},
    )  # fmt: skip
    spec = replace(one.trunk, recipe=replace(one.trunk.recipe, epochs=0))
    start = replace(one, trunk=spec, reports=(at_start,))
    figure = plot_learning_curves([start], spec.key, (0,))
    (ax,) = panels(figure)
    assert rings(ax) == [pytest.approx((0, 60))]
    assert "chosen" in words(figure) and "rung" not in words(figure)
    assert_readable(figure)
    failed = replace(a_trunk(lr=9e-3), status=TrunkStatus.FAILED, reports=())
    figure = plot_learning_curves([a_trunk(), failed], "none of them", (2, 4))
    assert "1 failed ▪" in words(figure)
    assert_readable(figure)
    assert_readable(plot_learning_curves([failed], "none of them", (2, 4)))


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_curves_are_readable(count: int) -> None:
    variants = tuple(VARIANTS)[:count]
    trunks = [replace(t, trunk=replace(t.trunk, variant=v)) for v in variants for t in FOUR]
    figure = plot_learning_curves(trunks, trunks[-1].trunk.key, (1, 2, 3, 4))
    assert_readable(figure)
    named = [ax for ax in panels(figure) if ax.get_xlabel() == "epoch"]
    assert len(named) == min(count, 4)
    for ax in named:
        assert any(t.label1.get_visible() for t in ax.xaxis.get_major_ticks())


def test_the_figure_is_the_same_each_time(tmp_path: Path) -> None:
    assert_same_each_time(
        lambda: plot_learning_curves(FOUR[:2], FOUR[0].trunk.key, (2, 4)), tmp_path
    )
