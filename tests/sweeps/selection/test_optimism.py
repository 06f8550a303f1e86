"""Choosing on halves, against what choosing really does on made-up rows."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.selection import optimism as module
from sweeps.selection.optimism import halves_of, optimism


def noise(rows: int, n: int, top1: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, n)) < top1


@pytest.mark.parametrize("rows", [1, 5, 60])
@pytest.mark.parametrize(("n", "top1"), [(150, 0.1), (300, 0.8)])
def test_among_rows_of_pure_noise_it_is_what_the_best_is_too_high_by(
    rows: int, n: int, top1: float
) -> None:
    """All rows are as good, so that the truth is known: the best's share less theirs."""
    estimate = np.mean([optimism(noise(rows, n, top1, seed), seed) for seed in range(24)])
    truth = np.mean(
        [noise(rows, n, top1, seed).mean(axis=1).max() - top1 for seed in range(100, 400)]
    )
    assert estimate == pytest.approx(truth, abs=0.004, rel=0.2)


def test_a_row_that_stands_out_is_hardly_flattered() -> None:
    rows = noise(20, 300, 0.5, 0)
    rows[3] = noise(1, 300, 0.95, 1)[0]
    assert abs(optimism(rows)) < 0.004 < optimism(noise(20, 300, 0.5, 2))


def test_rows_that_agree_on_all_images_cannot_flatter_each_other() -> None:
    same = np.repeat(noise(1, 200, 0.7, 0), 30, axis=0)
    assert abs(optimism(same)) < 0.004


def test_the_same_seed_gives_the_same() -> None:
    rows = noise(10, 100, 0.5, 0)
    assert optimism(rows, 1) == optimism(rows, 1) != optimism(rows, 2)


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 20])
def test_rows_are_averaged_over_the_same_halves_however_many_are_taken_at_once(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of both halves, weighed by their images, is that of all images: so for each row."""
    hits = noise(rows, 51, 0.6, rows)
    whole = halves_of(hits)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    for one, other in zip(whole, halves_of(hits), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    of_all = (25 * whole[0] + 26 * whole[1]) / 51
    np.testing.assert_allclose(of_all, np.tile(hits.mean(axis=1), (300, 1)).T, rtol=1e-5)
