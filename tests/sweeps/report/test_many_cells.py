"""The report of a sweep of 5,000 cells: as large, and as readable, as that of a few hundred."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pytest

from sweeps.events.event_types import TrunkEnded
from sweeps.events.recorders import History
from sweeps.report.arms_plot import plot_arms
from sweeps.report.build import write_evidence
from sweeps.report.heatmap import MAX_NUMBERS, bears_numbers, plot_heatmaps
from sweeps.report.learning_curves import plot_learning_curves
from sweeps.report.pareto_plot import plot_pareto_fronts
from sweeps.selection.leaderboard import Row
from tests.factories import a_record, outcome_of, plan_of, spec_with
from tests.sweeps.report.drawn import SHOWN_ARMS, a_trunk, assert_readable, panels, points, rows_of
from trainables.training.trunk import TrunkStatus

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")
TRAINS, TESTS = tuple(range(128, 304, 8)), tuple(range(128, 312, 8))
SPEC = spec_with(
    variants=VARIANTS, train_res=TRAINS, test_res=TESTS, test_crop_pct=(1.0,), arms=SHOWN_ARMS
)
TWO = spec_with(SPEC, variants=VARIANTS[:2])
MANY = [a_trunk(lr=1e-4 * (1 + i / 100), tops={2: 40, 4: 30 + i % 60}) for i in range(500)]


@cache
def many(variants: tuple[str, ...] = VARIANTS[:2]) -> list[Row]:
    return rows_of(variants, TRAINS, TESTS)


def chosen(rows: list[Row]) -> Row:
    return max(rows, key=lambda r: (r.arm != "pool", r.top1))


def test_the_page_stays_small_and_names_the_file_of_all_rows(tmp_path: Path) -> None:
    history = History()
    for trunk in MANY:
        history.on(trunk)
    rows = many(VARIANTS)
    assert len(rows) == 4 * 5_060
    best = chosen(rows)
    test = Row(**{**vars(best), "split": "test"})
    outcome = outcome_of([best, *(row for row in rows if row is not best), test])
    figures = write_evidence(tmp_path, plan_of(SPEC), outcome, history, a_record())
    page = (tmp_path / "report.html").read_text()
    assert 100_000 < len(page.encode()) < 5_000_000
    assert "The best 501 of 20,241 rows" in page and "leaderboard.parquet" in page
    assert "A dot: the best test resolution of a row" in page and "Bold: " not in page
    assert all(path.stat().st_size < 2_000_000 for path in figures)


def test_maps_of_many_cells_are_colours_with_a_dot_in_each_row() -> None:
    figure = plot_heatmaps(many(), plan_of(TWO), chosen(many()))
    maps = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(maps) == 2 * 2
    for ax in maps:
        assert not ax.texts and len(ax.lines) == len(TRAINS)
        values = ax.images[0].get_array()
        assert values is not None and values.shape == (len(TRAINS), len(TESTS))
        for line in ax.lines:
            ((x, y),) = points(line)
            assert values[int(y), int(x)] == values[int(y)].max()
    assert sum(len(ax.patches) for ax in maps) == 1  # the choice
    pixels = figure.get_size_inches() * figure.dpi
    assert pixels.prod() < 20e6 / 5


def test_a_trunk_that_was_cut_has_a_cross_for_its_dot() -> None:
    rows = [
        Row(**{**vars(row), "trunk_epochs": 2 if row.train_res == TRAINS[3] else 6})
        for row in many()
    ]
    figure = plot_heatmaps(rows, plan_of(spec_with(TWO, epochs=6)), rows[0])
    marks = {points(line)[0][1]: line.get_marker() for line in figure.axes[0].lines}
    assert marks == {y: "x" if y == 3 else "o" for y in range(len(TRAINS))}


def test_numbers_stand_as_long_as_they_are_few() -> None:
    ordinary = spec_with(
        SPEC, variants=VARIANTS[:9], train_res=TRAINS[:6], test_res=TESTS[:6], arms=("none", "fix")
    )
    row = rows_of(("b0",), (128,), (128,))[0]
    assert bears_numbers(plan_of(ordinary), row)  # 9 x 6 x 6 cells
    for side in range(1, 25):
        spec = spec_with(ordinary, variants=("b0",), train_res=TRAINS[:side], test_res=TESTS[:22])
        sides = min(side, len(TRAINS)) * 22
        assert bears_numbers(plan_of(spec), row) == (2 * sides <= MAX_NUMBERS)


def test_of_many_trunks_of_a_point_some_are_drawn_from_the_best_to_the_worst() -> None:
    trunk = MANY[77].trunk.key
    figure = plot_learning_curves(MANY, trunk, (2, 4))
    drawn = [points(line) for line in panels(figure)[0].lines]
    ends = [line[-1][1] for line in drawn if [x for x, _ in line] == [2, 4]]
    tops = [100.0 * max(s.top1 for s in t.reports[-1].val.values()) for t in MANY]
    assert len(ends) == 60 and min(ends) == min(tops) and max(ends) == max(tops)
    assert tops[77] in ends
    notes = figure._supxlabel.get_text()  # type: ignore[attr-defined]
    assert "60 trunks of a point drawn, evenly from the best to the worst" in notes
    assert "500 trunks" in figure.get_suptitle()
    assert_readable(figure)


@pytest.mark.parametrize("count", [59, 60, 61])
def test_few_trunks_are_all_drawn(count: int) -> None:
    trunks: list[TrunkEnded] = [
        a_trunk(lr=1e-4 * (1 + i), status=TrunkStatus.CUT, tops={2: 10 + i}) for i in range(count)
    ]
    figure = plot_learning_curves(trunks, trunks[-1].trunk.key, (2, 4))
    marked = [line for line in panels(figure)[0].lines if line.get_marker() == "x"]
    assert len(marked) == min(count, 60)


def test_a_figure_of_many_marks_is_a_picture_in_the_page() -> None:
    """A thousand circles are as many elements, which a browser lays out one by one."""
    for figure in (
        plot_arms(many()),
        plot_pareto_fronts(many(), ["gmacs", "params_m"], chosen(many()), TWO.serving),
    ):
        file = io.StringIO()
        figure.savefig(file, format="svg")
        assert "<image" in file.getvalue() and file.getvalue().count("<use") < 4_000
