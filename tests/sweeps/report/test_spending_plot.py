"""The bars of the spending plot are as long as the ledger's times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, TextArea
from matplotlib.text import Annotation

from sweeps.report.spending_plot import plot_spending
from tests.sweeps.report.finished_sweep import (
    spent,
)


def bars(figure: Figure) -> list[list[float]]:
    """Lengths by line."""
    patches = figure.axes[0].patches
    lines = sorted({p.get_y() for p in patches})  # type: ignore[attr-defined]
    return [[p.get_width() for p in patches if p.get_y() == y] for y in lines]  # type: ignore[attr-defined]


def labels(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts if isinstance(t, Annotation)]


def parts(figure: Figure) -> list[str]:
    """What stands below the bars."""
    boxes = [a for a in figure.axes[0].artists if isinstance(a, AnnotationBbox)]
    texts = [c.get_text() for b in boxes for c in b.offsetbox.get_children()
             if isinstance(c, TextArea)]  # fmt: skip
    return [t.strip() for t in texts if t != "■"]


def test_the_bars_are_as_long_as_the_times() -> None:
    booked = spent()
    figure = plot_spending(booked)
    sweep, alone = bars(figure)
    assert sweep == pytest.approx([80 / 60, 100 / 60, 7.5 / 60])  # min, as the longest is
    assert sum(alone) == pytest.approx(booked.alone_s / 60)
    assert figure.axes[0].get_xlabel() == "time of trials (min)"
    assert labels(figure)[0] == "3.1 min\ncost 0.16"
    assert parts(figure)[:3] == [
        "phase 1, trunks: 80 s",
        "phase 2, cells: 100 s",
        "sets read after the choice: 7.5 s",
    ]


def test_a_refit_is_a_part_of_both_bars() -> None:
    figure = plot_spending(replace(spent(), refit_s=60.0))
    for line in bars(figure):
        assert line[2] == pytest.approx(1.0)
    assert "the choice trained again: 60 s" in parts(figure)


def test_where_no_pass_was_timed_the_other_bar_is_a_lower_bound() -> None:
    figure = plot_spending(replace(spent(None), saved_passes_s=None))
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["this sweep", "one trial a cell\n(at least)"]
    assert "at least" in figure.get_suptitle() and "cost" not in labels(figure)[0]


@pytest.mark.parametrize("seconds", [0.0, 1e-3, 5e6])
def test_no_text_leaves_the_figure(seconds: float) -> None:
    booked = replace(spent(), trained_s=seconds, adapted_s=seconds, saved_passes_s=3 * seconds)
    figure = plot_spending(booked)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    for artist in (*ax.texts, *ax.artists, *ax.get_yticklabels()):
        box = artist.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 + 1
