"""The pictures of confusions and of reliability hold what was counted, and can be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from sweeps.report.chosen_net.confusion_plot import MAX_CLASSES, OTHERS, plot_confusions
from sweeps.report.chosen_net.reliability_plot import plot_reliability
from tests.factories import predictions_of
from tests.sweeps.report.drawn import assert_same_each_time, panels, words
from trainables.evaluation.calibration import reliability

VAL, TEST = predictions_of("val", 300), predictions_of("test", 200)
NAMES = ("cat", "dog", "fox")


def numbers(ax) -> dict[tuple[int, int], int]:
    """By row and column of the matrix."""
    placed = {t.get_position(): t.get_text() for t in ax.texts}
    return {(round(y), round(x)): int(text) for (x, y), text in placed.items()}


def test_the_matrix_is_that_of_scikit_learn() -> None:
    axes = panels(plot_confusions([VAL, TEST], NAMES))
    for ax, one in zip(axes, (VAL, TEST), strict=True):
        matrix = confusion_matrix(one.labels, one.predicted)
        expected = {(y, x): n for (y, x), n in np.ndenumerate(matrix) if n}
        assert numbers(ax) == expected
        assert ax.get_title(loc="left") == f"{one.split}, n = {len(one.labels)}"
        assert [t.get_text() for t in ax.get_yticklabels()] == list(NAMES)


def test_of_many_classes_those_that_are_confused_are_shown_and_no_image_is_lost() -> None:
    many = predictions_of("test", 4000, classes=1000, sharpness=2.0)
    (ax,) = panels(plot_confusions([many], [f"class {i}" for i in range(1000)]))
    shown = [int(t.get_text().split()[1]) for t in ax.get_yticklabels()]
    assert len(shown) <= MAX_CLASSES and ax.get_xticklabels()[-1].get_text() == OTHERS
    counts = numbers(ax)
    for y, label in enumerate(shown):
        total = sum(n for (row, _), n in counts.items() if row == y)
        assert total == (many.labels == label).sum()


def test_long_names_are_cut_and_are_no_formulas() -> None:
    figure = plot_confusions([VAL], ("$x$" * 3, "a" * 100, "b"))
    figure.canvas.draw()
    assert "a" * 17 + "…" in words(figure)


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_bins_are_drawn_where_they_are(temperature: float | None) -> None:
    axes = panels(plot_reliability([VAL, TEST], temperature))
    for ax, one in zip(axes, (VAL, TEST), strict=True):
        assert one.logits is not None
        found = reliability(one.logits, one.labels, temperature or 1.0)
        (drawn,) = (c for c in ax.containers)
        x, y = drawn[0].get_data()
        np.testing.assert_allclose(x, [100 * b.confidence for b in found.bins])
        np.testing.assert_allclose(y, [100 * b.hits / b.n for b in found.bins])
        low, high = ax.get_ylim()
        assert low <= min(y) and max(y) <= high
        title = ax.get_title(loc="left")
        assert f"{one.split}, n = {len(one.labels)}; ECE" in title
        assert ("→" in title) == (temperature is not None)


def test_a_split_of_a_few_images_has_a_bin() -> None:
    few = predictions_of("val", 3)
    plot_reliability([few, replace(few, split="test")], None)


def test_figures_are_the_same_each_time(tmp_path: Path) -> None:
    assert_same_each_time(lambda: plot_confusions([VAL, TEST], NAMES), tmp_path)
    assert_same_each_time(lambda: plot_reliability([VAL, TEST], 1.7), tmp_path)
