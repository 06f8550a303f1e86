"""The report's figures say what rows and reports say, and no text covers another."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise, product
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy.optimize import minimize

from sweeps.events.event_types import TrunkEnded
from sweeps.planning.spec import ServingOptions
from sweeps.report.arms_plot import plot_arms
from sweeps.report.learning_curves import plot_learning_curves
from sweeps.report.pareto_plot import plot_pareto_fronts
from sweeps.report.style import CHOSEN, Labels, new_figure, spread_apart, style_axes, variant_styles
from sweeps.selection.choice import eligible
from sweeps.selection.leaderboard import Row
from tests.factories import a_row
from trainables.evaluation.confidence import wilson
from trainables.evaluation.metrics import Score
from trainables.fixres.arms import ARMS, rank
from trainables.models.variants import VARIANTS
from trainables.models.weights import Weights
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import EpochReport, TrunkSpec

NO_LIMITS = ServingOptions()
COSTS = ("gmacs", "params_m", "latency_ms")
SHOWN_ARMS = ("none", "crop1", "pool", "bn", "fix")


def rows_of(
    variants: Sequence[str], trains: Sequence[int], tests: Sequence[int], *, latency: bool = True
) -> list[Row]:
    """Made-up rows of every cell and arm: the larger the better, with noise."""
    rng = random.Random(0)
    rows = []
    for v, tr, te, arm in product(variants, trains, tests, SHOWN_ARMS):
        size = 1 + variants.index(v)
        share = 0.6 + 0.03 * min(size, 5) + 0.06 * math.log2(te / 64) + 0.01 * rank(arm)
        rows.append(
            a_row(
                round(1000 * (share + rng.gauss(0, 0.01))), 1000, variant=v, train_res=tr,
                test_res=te, arm=arm, gmacs=size * (te / 224) ** 2, params_m=4.0 * size,
                latency_ms=5 + size * te / 50 if latency else None, seconds=0.5 * (1 + rank(arm)),
            )
        )  # fmt: skip
    return rows


ONE = rows_of(("b0",), (128,), (160,), latency=False)
THREE = rows_of(("b3", "b0", "b1"), (128, 160, 224), (128, 160, 224, 288))
CHOSEN_ROW = next(r for r in THREE if (r.label, r.arm) == ("b1 160 -> 224", "fix"))


def a_trunk(
    variant: str = "b0", res: int = 128, *, lr: float = 1e-3, why: str = "finished",
    tops: dict[int, int] | None = None, losses: Sequence[float | None] = (2.0, 1.5, 1.0, 0.8),
) -> TrunkEnded:  # fmt: skip
    """
    Args:
        tops: hits of 100 after an epoch, at the best of two test resolutions.
    """
    tops = {2: 50, 4: 70} if tops is None else tops
    spec = TrunkSpec(
        variant=variant,
        train_res=res,
        weights=Weights(variant=variant, source="none", digest="none", name=None),
        images="0123456789abcdef",
        recipe=Recipe(epochs=4, batch_size=32),
        hyper=Hyper(lr=lr, weight_decay=0.01, label_smoothing=0.1),
        seed=0,
    )
    reports = []
    for epoch, loss in enumerate(losses, start=1):
        val = {}
        if epoch in tops:
            hits = tops[epoch]
            val = {
                res: Score(split="val", n=100, hits1=hits - 7, hits5=100),
                2 * res: Score(split="val", n=100, hits1=hits, hits5=100),
            }
        reports.append(
            EpochReport(
                epoch=epoch, loss=loss, train_top1=0.5, images=10, lr=lr, seconds=1.0, at=0,
                val=val, diverged=loss is None,
            )
        )  # fmt: skip
    return TrunkEnded(trunk=spec, why=why, reports=tuple(reports))


FOUR = [
    a_trunk(lr=1e-3),
    a_trunk(lr=2e-3, why="cut", tops={2: 40}, losses=(2.1, 1.9)),
    a_trunk(lr=3e-3, why="diverged", tops={2: 30}, losses=(2.2, 9.0, None)),
    a_trunk(lr=4e-3, tops={2: 55, 4: 68}),
]


# --- what a figure shows ----------------------------------------------------------------------


def texts(figure: Figure) -> list[Text]:
    """All that can be read, but for tick labels of other axes' ticks."""
    axes = [ax for ax in figure.axes if ax.axison]
    found = [t for ax in figure.axes for t in ax.texts]
    found += [t for t in (figure._suptitle, figure._supxlabel) if t]  # type: ignore[attr-defined]
    for ax in axes:
        found += [ax.xaxis.label, ax.yaxis.label, ax._left_title]  # type: ignore[attr-defined]
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            ticks = axis.get_major_ticks()
            inside = [t for t in ticks if min(low, high) <= t.get_loc() <= max(low, high)]
            found += [t.label1 for t in inside if t.label1.get_visible()]
    legends = [*figure.legends, *(legend for ax in figure.axes if (legend := ax.get_legend()))]
    for legend in legends:
        found += [*legend.get_texts(), legend.get_title()]
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def assert_readable(figure: Figure) -> None:
    """No text covers another or leaves the page."""
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts(figure)]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (one, a), (other, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, along) < 1, (one, other)  # pixels


def words(figure: Figure) -> list[str]:
    return [t.get_text() for t in texts(figure)]


def rings(ax: Axes) -> list[tuple[float, float]]:
    """Where something is ringed in red."""
    ringed = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert all(to_hex(line.get_markeredgecolor()) == CHOSEN for line in ringed)
    return [point for line in ringed for point in points(line)]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


# --- style ------------------------------------------------------------------------------------


def test_variants_look_different_and_the_same_in_any_order() -> None:
    all_looks = variant_styles(VARIANTS)
    assert len(set(all_looks.values())) == len(VARIANTS) > 7
    few = ["l2", "b3", "b0", "b3"]
    assert variant_styles(few) == variant_styles(reversed(few))
    assert len({look.colour for look in variant_styles(few).values()}) == 3


@pytest.mark.parametrize("seed", range(4))
def test_spread_is_the_least_squares_with_a_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = np.sort(rng.uniform(0, 10, 6))
    gap = 1.5
    constraints = [
        {"type": "ineq", "fun": lambda h, i=i: h[i + 1] - h[i] - gap}
        for i in range(len(wanted) - 1)
    ]
    best = minimize(
        lambda h: ((h - wanted) ** 2).sum(),
        wanted + gap * np.arange(6),
        constraints=constraints,
        tol=1e-12,
    )
    assert best.success
    order = rng.permutation(6)
    assert spread_apart(list(wanted[order]), gap) == pytest.approx(list(best.x[order]), abs=1e-5)


def test_spread_leaves_alone_what_is_far_apart() -> None:
    assert spread_apart([5.0, 1.0, 3.0], 1.0) == [5.0, 1.0, 3.0]
    assert spread_apart([], 1.0) == []


def test_labels_cover_no_other_label_and_no_point_and_stay_within_the_axes() -> None:
    rng = random.Random(0)
    figure = new_figure(5, 4, "Many labels")
    ax = figure.subplots()
    style_axes(ax)
    places = [(rng.random(), rng.random()) for _ in range(60)]
    ax.plot(*zip(*places, strict=True), "o")
    labels = Labels(ax, places, [])
    put = sum(labels.put(f"label {i}", place) for i, place in enumerate(places))
    assert 15 < put == len(ax.texts)
    assert_readable(figure)
    figure.draw_without_rendering()
    frame = ax.get_window_extent()
    dots = ax.transData.transform(places)
    for text in ax.texts:
        box = Text.get_window_extent(text)
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.contains(*dot) for dot in dots)


# --- Pareto -----------------------------------------------------------------------------------


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


def steps(ax: Axes) -> list[tuple[float, float]]:
    """The corners of the stepped line, without its end at the edge of the axes."""
    (line,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    return points(line)[:-1]


def test_each_panel_steps_along_the_rows_that_nothing_beats() -> None:
    figure = plot_pareto_fronts(
        [*THREE, a_row(1000, 1000, split="test")], COSTS, CHOSEN_ROW, NO_LIMITS
    )
    assert len(panels(figure)) == 3
    rows = eligible(THREE)
    for ax, cost in zip(panels(figure), COSTS, strict=True):
        unbeaten = {
            (getattr(r, cost), 100 * r.top1)
            for r in rows
            if not any(
                getattr(o, cost) <= getattr(r, cost)
                and o.hits1 >= r.hits1
                and (getattr(o, cost), o.hits1) != (getattr(r, cost), r.hits1)
                for o in rows
            )
        }
        assert sorted(unbeaten) == [pytest.approx(p) for p in steps(ax)]
        assert all(y1 > y0 for (_, y0), (_, y1) in pairwise(steps(ax)))
        x = getattr(CHOSEN_ROW, cost)
        assert rings(ax) == [pytest.approx((x, 100 * CHOSEN_ROW.top1))]


def test_every_row_that_may_be_chosen_is_a_point_in_its_variants_colour() -> None:
    figure = plot_pareto_fronts(THREE, ("gmacs",), CHOSEN_ROW, NO_LIMITS)
    (ax,) = panels(figure)
    look = variant_styles(r.variant for r in THREE)
    for variant in ("b0", "b1", "b3"):
        small = [
            p
            for line in ax.lines
            if line.get_alpha() and to_hex(line.get_color()) == look[variant].colour
            for p in points(line)
        ]
        own = [(r.gmacs, 100 * r.top1) for r in eligible(THREE) if r.variant == variant]
        assert sorted(small) == [pytest.approx(p) for p in sorted(own)]
    assert {"b0", "b1", "b3"} <= set(words(figure))


def test_the_whisker_is_wilsons_interval_of_the_chosen_row() -> None:
    (ax,) = panels(plot_pareto_fronts(THREE, ("gmacs",), CHOSEN_ROW, NO_LIMITS))
    whiskers = [s for c in ax.collections for s in c.get_segments()]  # type: ignore[attr-defined]
    low, high = wilson(CHOSEN_ROW.hits1, CHOSEN_ROW.n)
    ((start, end),) = whiskers
    assert start == pytest.approx((CHOSEN_ROW.gmacs, 100 * low))
    assert end == pytest.approx((CHOSEN_ROW.gmacs, 100 * high))


def test_points_of_the_front_are_named() -> None:
    rows = [
        a_row(h, 1000, test_res=res, gmacs=g)
        for h, res, g in ((500, 64, 1.0), (700, 96, 2.0), (600, 112, 2.5), (900, 128, 3.0))
    ]
    (ax,) = panels(plot_pareto_fronts(rows, ("gmacs",), rows[1], NO_LIMITS))
    named = {t.get_text(): to_hex(str(t.get_color())) for t in ax.texts}
    assert named.keys() == {"64→64 fix", "64→96 fix", "64→128 fix"}
    assert [name for name, colour in named.items() if colour == CHOSEN] == ["64→96 fix"]
    several = [replace(r, variant=v) for r, v in zip(rows, ("b0", "b1", "b2", "b3"), strict=True)]
    (ax,) = panels(plot_pareto_fronts(several, ("gmacs",), several[3], NO_LIMITS))
    assert {t.get_text() for t in ax.texts} == {"b0 64→64 fix", "b1 64→96 fix", "b3 64→128 fix"}


def test_limits_are_lines_with_the_option_and_the_forbidden_side_shaded() -> None:
    limits = ServingOptions(max_gmacs=1.25, min_top1=0.7)
    gmacs, params, latency = panels(plot_pareto_fronts(THREE, COSTS, CHOSEN_ROW, limits))
    for ax in (gmacs, params, latency):
        dashed = [line for line in ax.lines if line.is_dashed()]
        uprights = [line for line in dashed if len(set(line.get_xdata())) == 1]  # type: ignore[arg-type]
        assert [line.get_xdata()[0] for line in uprights] == ([1.25] if ax is gmacs else [])  # type: ignore[index]
        levels = [line for line in dashed if line not in uprights]
        assert [line.get_ydata()[0] for line in levels] == [pytest.approx(70)]  # type: ignore[index]
        names = [t.get_text() for t in ax.texts if t.get_text().startswith("--")]
        assert sorted(names) == ["--max-gmacs 1.25"] * (ax is gmacs) + ["--min-top1 0.7"]
        shades = [p.get_extents().transformed(ax.transData.inverted()) for p in ax.patches]
        assert len(shades) == len(dashed)
        assert any(s.y1 == pytest.approx(70) for s in shades)
        assert any(s.x0 == pytest.approx(1.25) for s in shades) == (ax is gmacs)


def test_costs_that_are_missing_or_the_same_for_all_have_no_panel() -> None:
    rows = rows_of(("b0",), (64, 96), (64, 96, 128), latency=False)
    figure = plot_pareto_fronts(rows, COSTS, rows[-1], NO_LIMITS)
    (ax,) = panels(figure)
    assert "GMACs" in ax.get_xlabel() or "multiply" in ax.get_xlabel()
    assert any("parameters (M): 4 for every row" in w for w in words(figure))
    some = [replace(r, latency_ms=3.0 + i) if i % 2 else r for i, r in enumerate(rows)]
    assert len(panels(plot_pareto_fronts(some, COSTS, some[-1], NO_LIMITS))) == 2
    any_field = [replace(r, images_s=10.0 + i) for i, r in enumerate(rows)]
    (ax,) = panels(
        plot_pareto_fronts(any_field, ("images_s", "no_such_field"), any_field[-1], NO_LIMITS)
    )
    assert ax.get_xlabel() == "images s"


def test_the_scale_is_logarithmic_where_costs_differ_fivefold() -> None:
    for factor, scale in ((4.9, "linear"), (5.1, "log")):
        rows = [a_row(50, 100, gmacs=1.0), a_row(60, 100, gmacs=factor, test_res=128)]
        (ax,) = panels(plot_pareto_fronts(rows, ("gmacs",), rows[1], NO_LIMITS))
        assert ax.get_xscale() == scale


def test_rows_far_below_the_front_are_counted_not_shown() -> None:
    rows = [a_row(h, 1000, gmacs=g) for h, g in ((900, 1), (930, 2), (880, 2), (300, 2), (10, 3))]
    figure = plot_pareto_fronts(rows, ("gmacs",), rows[1], NO_LIMITS)
    (ax,) = panels(figure)
    low, high = ax.get_ylim()
    assert low < 88 and high > 93
    lower = sum(100 * r.top1 < low for r in rows)
    assert lower == 2 and any(f"{lower} rows lower than shown" in w for w in words(figure))


@pytest.mark.parametrize(
    ("rows", "chosen", "limits"),
    [
        (ONE, ONE[-1], ServingOptions(max_gmacs=3.0, max_params_m=9.0)),
        (THREE, CHOSEN_ROW, NO_LIMITS),
        (THREE, THREE[0], ServingOptions(max_gmacs=0.5, max_latency_ms=30.0, min_top1=0.5)),
        (rows_of(tuple(VARIANTS)[:18], (224,), (224, 288)), None, ServingOptions(max_params_m=40)),
    ],
)
def test_pareto_is_readable(rows: list[Row], chosen: Row | None, limits: ServingOptions) -> None:
    chosen = chosen or max(rows, key=lambda r: r.hits1)
    figure = plot_pareto_fronts(rows, COSTS, chosen, limits)
    assert_readable(figure)
    assert any(f"n = {rows[0].n}" in ax.get_ylabel() for ax in panels(figure))


# --- curves -----------------------------------------------------------------------------------


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
    trunks = [a_trunk(), a_trunk(lr=2e-3, why="cut", tops={2: 90}, losses=(1.0, 0.9))]
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
    failed = replace(a_trunk(lr=9e-3), why="failed", reports=())
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


# --- arms -------------------------------------------------------------------------------------


def strips(figure: Figure) -> list[tuple[float, list[float]]]:
    """From the top: the mean that is drawn, and the dots."""
    ax = figure.axes[0]
    dots = [c for c in ax.collections if not hasattr(c, "get_segments")]
    bars = [c.get_segments() for c in ax.collections if hasattr(c, "get_segments")]
    means = {round(float(np.mean(seg[0][:, 1]))): float(seg[0][0, 0]) for seg in bars}
    found = []
    for collection in dots:
        offsets = np.asarray(collection.get_offsets())
        line = round(float(np.mean(offsets[:, 1])))
        found.append((line, (means[line], sorted(float(x) for x in offsets[:, 0]))))
    return [strip for _, strip in sorted(found)]


def names(figure: Figure) -> list[str]:
    """The arms from the top."""
    ax = figure.axes[0]
    found = [t for t in ax.texts if t.get_text() in ARMS]
    return [t.get_text() for t in sorted(found, key=lambda t: t.xy[1])]  # type: ignore[attr-defined]


def test_dots_are_gains_on_the_untuned_trunk_in_the_same_cell() -> None:
    rows = [*THREE, replace(THREE[0], split="test", top1=0.0)]
    random.Random(0).shuffle(rows)
    figure = plot_arms(rows)
    assert names(figure) == ["none", "pool", "bn", "fix"]
    untuned = {r.cell: r.top1 for r in THREE if r.arm == "crop1"}
    for arm, (mean, dots) in zip(names(figure), strips(figure), strict=True):
        gains = sorted(100 * (r.top1 - untuned[r.cell]) for r in THREE if r.arm == arm)
        assert dots == pytest.approx(gains)
        assert mean == pytest.approx(sum(gains) / len(gains))
        assert f"{mean:+.1f}".replace("-", "−") in words(figure)
    assert "untuned (crop1)" in words(figure)
    assert figure.get_suptitle().endswith("(36 cells, val, n = 1000)")
    assert {"0.5 s", "1.5 s", "2.0 s", "3.0 s"} <= set(words(figure))  # none, pool, bn, fix


def test_without_the_untuned_arm_or_without_others_top1_is_shown() -> None:
    for kept in (("none", "bn", "fix"), ("crop1",)):
        rows = [r for r in THREE if r.arm in kept]
        figure = plot_arms(rows)
        assert names(figure) == list(kept)
        for arm, (_, dots) in zip(kept, strips(figure), strict=True):
            assert dots == pytest.approx(sorted(100 * r.top1 for r in rows if r.arm == arm))
        assert "untuned (crop1)" not in words(figure)
        assert "%" in figure.axes[0].get_xlabel()
        assert_readable(figure)


def test_a_cell_keeps_its_height_and_none_hides_another() -> None:
    ax = plot_arms(THREE).axes[0]
    heights = []
    for collection in ax.collections:
        if not hasattr(collection, "get_segments"):
            ys = np.asarray(collection.get_offsets())[:, 1]
            heights.append(sorted(ys - np.round(np.mean(ys))))
    assert len(heights) == 4
    for own in heights:
        assert own == pytest.approx(heights[0])
        assert len({round(y, 6) for y in own}) == 36 and -0.5 < own[0] < own[-1] < 0.5


def test_a_cell_without_the_untuned_arm_is_left_out() -> None:
    lost = THREE[0].cell
    rows = [r for r in THREE if (r.cell, r.arm) != (lost, "crop1")]
    assert all(len(dots) == 35 for _, dots in strips(plot_arms(rows)))


@pytest.mark.parametrize("rows", [ONE, THREE, rows_of(tuple(VARIANTS)[:9], (64, 96), (96, 200))])
def test_arms_are_readable(rows: list[Row]) -> None:
    assert_readable(plot_arms(rows))


# --- all --------------------------------------------------------------------------------------


def test_figures_are_drawn_the_same_each_time(tmp_path: Any) -> None:
    makers = (
        lambda: plot_pareto_fronts(ONE, COSTS, ONE[0], NO_LIMITS),
        lambda: plot_learning_curves(FOUR[:2], FOUR[0].trunk.key, (2, 4)),
        lambda: plot_arms(ONE),
    )
    with matplotlib.rc_context({"svg.hashsalt": "fixed"}):
        for make in makers:
            for name in ("a.svg", "b.svg"):
                make().savefig(tmp_path / name, metadata={"Date": None})
            assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
