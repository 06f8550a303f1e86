"""The arms plot shows the gain of each arm in each cell, and can be read."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sweeps.report.arms_plot import plot_arms
from sweeps.selection.leaderboard import Row
from tests.sweeps.report.drawn import (
    ONE,
    THREE,
    assert_readable,
    assert_same_each_time,
    rows_of,
    words,
)
from trainables.fixres.arms import ARMS
from trainables.models.variants import VARIANTS


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
    assert names(figure) == ["pool", "bn", "fix"]
    untuned = {r.cell: r.top1 for r in THREE if r.arm == "none"}
    for arm, (mean, dots) in zip(names(figure), strips(figure), strict=True):
        gains = sorted(100 * (r.top1 - untuned[r.cell]) for r in THREE if r.arm == arm)
        assert dots == pytest.approx(gains)
        assert mean == pytest.approx(sum(gains) / len(gains))
        assert f"{mean:+.1f}".replace("-", "−") in words(figure)
    assert "untuned (none)" in words(figure)
    assert figure.get_suptitle().endswith("(36 cells, val, n = 1000)")
    assert {"1.0 s", "1.5 s", "2.5 s"} <= set(words(figure))  # pool, bn, fix


def test_without_the_untuned_arm_or_without_others_top1_is_shown() -> None:
    for kept in (("pool", "bn", "fix"), ("none",)):
        rows = [r for r in THREE if r.arm in kept]
        figure = plot_arms(rows)
        assert names(figure) == list(kept)
        for arm, (_, dots) in zip(kept, strips(figure), strict=True):
            assert dots == pytest.approx(sorted(100 * r.top1 for r in rows if r.arm == arm))
        assert "untuned (none)" not in words(figure)
        assert "%" in figure.axes[0].get_xlabel()
        assert_readable(figure)


def test_a_cell_keeps_its_height_and_none_hides_another() -> None:
    ax = plot_arms(THREE).axes[0]
    heights = []
    for collection in ax.collections:
        if not hasattr(collection, "get_segments"):
            ys = np.asarray(collection.get_offsets())[:, 1]
            heights.append(sorted(ys - np.round(np.mean(ys))))
    assert len(heights) == 3
    for own in heights:
        assert own == pytest.approx(heights[0])
        assert len({round(y, 6) for y in own}) == 36 and -0.5 < own[0] < own[-1] < 0.5


def test_a_cell_without_the_untuned_arm_is_left_out() -> None:
    lost = THREE[0].cell
    rows = [r for r in THREE if (r.cell, r.arm) != (lost, "none")]
    assert all(len(dots) == 35 for _, dots in strips(plot_arms(rows)))


@pytest.mark.parametrize("rows", [ONE, THREE, rows_of(tuple(VARIANTS)[:9], (64, 96), (96, 200))])
def test_arms_are_readable(rows: list[Row]) -> None:
    assert_readable(plot_arms(rows))


def test_the_figure_is_the_same_each_time(tmp_path: Path) -> None:
    assert_same_each_time(lambda: plot_arms(ONE), tmp_path)
