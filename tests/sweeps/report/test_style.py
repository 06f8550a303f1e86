"""Styles tell variants apart, and labels do not overlap."""

from __future__ import annotations

import random

import numpy as np
import pytest
from matplotlib.text import Text
from scipy.optimize import minimize

from sweeps.report.style import Labels, new_figure, spread_apart, style_axes, variant_styles
from tests.sweeps.report.drawn import (
    assert_readable,
)
from trainables.models.variants import VARIANTS


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
