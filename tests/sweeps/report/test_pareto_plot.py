"""The Pareto plot shows the rows, fronts, limits and the choice, and can be read."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from sweeps.planning.options.groups import ServingOptions
from sweeps.report.pareto_plot import plot_pareto_fronts
from sweeps.report.style import CHOSEN, variant_styles
from sweeps.selection.choice import eligible
from sweeps.selection.leaderboard import Row
from tests.factories import a_row
from tests.sweeps.report.drawn import (
    CHOSEN_ROW,
    ONE,
    THREE,
    assert_readable,
    assert_same_each_time,
    panels,
    points,
    rings,
    rows_of,
    words,
)
from trainables.evaluation.confidence import wilson
from trainables.models.variants import VARIANTS

NO_LIMITS = ServingOptions()
COSTS = ("gmacs", "params_m", "latency_ms")


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


def test_points_of_several_crops_are_named_with_theirs() -> None:
    rows = [
        a_row(h, 1000, test_res=res, gmacs=g, crop_pct=c)
        for h, res, g, c in ((500, 64, 1.0, 0.875), (700, 96, 2.0, 1.0))
    ]
    (ax,) = panels(plot_pareto_fronts(rows, ("gmacs",), rows[1], NO_LIMITS))
    assert {t.get_text() for t in ax.texts} == {"64→64 fix, crop 0.875", "64→96 fix, crop 1.0"}


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


def test_the_figure_is_the_same_each_time(tmp_path: Path) -> None:
    assert_same_each_time(lambda: plot_pareto_fronts(ONE, COSTS, ONE[0], NO_LIMITS), tmp_path)
