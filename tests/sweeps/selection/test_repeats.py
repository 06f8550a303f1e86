"""Configurations are judged by the mean over their repeats; the best of these counts as picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from sweeps.planning.options.groups import ServingOptions
from sweeps.selection.choice import Choice, choose
from sweeps.selection.leaderboard import Row, crossfit_note, from_table, to_table
from sweeps.selection.repeats import groups_of, with_repeats_counted
from tests.factories import a_row, is_one_sentence
from trainables.evaluation.class_metrics import Metric
from trainables.evaluation.confidence import paired_difference, paired_difference_of_means

N = 400
NO_LIMITS = ServingOptions()


def repeats(name: str, *hits: int, **other: Any) -> list[Row]:
    """Rows that repeat trunk ``name``: the first is its own."""
    return [
        a_row(
            h, N, trunk=f"{name}{number}" if number else name, repeat=number,
            configuration=name if number else "", **other,
        )
        for number, h in enumerate(hits)
    ]  # fmt: skip


def spread_hits(row: Row) -> np.ndarray:
    """Rows are right on images of their own: each draws them."""
    seed = list(row.cell.encode())
    right = np.zeros(N, bool)
    right[np.random.default_rng(seed).permutation(N)[: row.hits1]] = True
    return right


def decide(rows: Sequence[Row], hits: Callable[[Row], np.ndarray] = spread_hits) -> Choice:
    return choose(with_repeats_counted(rows), NO_LIMITS, hits)


def test_mean_and_spread_are_those_of_numpy_and_rows_compare_by_the_mean() -> None:
    own = repeats("a", 300, 310, 330)
    rows = with_repeats_counted([*own, *repeats("b", 320)])
    shares = np.array([300, 310, 330]) / N
    for row, share in zip(rows[:3], shares, strict=True):
        assert row.repeats == 3 and row.mean_top1 == pytest.approx(shares.mean())
        assert row.sd_top1 == pytest.approx(shares.std(ddof=1))
        assert row.value("top1") == row.ranked_top1 == row.mean_top1
        assert row.own_value("top1") == share == row.top1
    assert rows[3] == repeats("b", 320)[0] and rows[3].value("top1") == 0.8
    assert crossfit_note(rows) == ", mean of 3 repeats" and crossfit_note(rows[3:]) == ""
    assert from_table(to_table(rows)) == rows


def test_cross_fitted_values_are_what_the_mean_is_of() -> None:
    own = [replace(row, crossfit_top1=row.top1 - 0.02) for row in repeats("a", 300, 320)]
    rows = with_repeats_counted(own)
    assert rows[0].mean_top1 == pytest.approx(0.775 - 0.02)


def test_only_rows_of_one_configuration_cell_and_arm_are_repeats() -> None:
    rows = [
        *repeats("a", 300, 310),
        *repeats("b", 300, 310),
        *repeats("a", 300, 310, test_res=128),
        *repeats("a", 300, 310, arm="none"),
        *repeats("a", 300, 310, crop_pct=0.9),
        *repeats("a", 300, split="test"),
    ]
    assert groups_of(rows) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10,)]


def test_a_lucky_seed_does_not_win_and_of_the_winner_the_best_is_handed_over() -> None:
    """Of two equal configurations by their means, and one that was lucky once."""
    steady, lucky = repeats("s", 320, 324, 322), repeats("l", 300, 345, 290)
    choice = decide([*lucky, *steady])
    assert choice.row.trunk == "s1" and choice.row.repeats == 3
    assert is_one_sentence(choice.reason)
    assert "of 2 rows" in choice.reason and "number 2" in choice.reason
    assert "80.5 %, mean of 3 repeats, standard deviation 0.5" in choice.reason
    assert "(81.0 %)" in choice.reason


def test_without_repeats_nothing_is_said_of_them() -> None:
    choice = decide([a_row(300, N, trunk="a"), a_row(380, N, trunk="b")])
    assert choice.row.trunk == "b" and "repeat" not in choice.reason + str(choice.row.mean_top1)
    assert "trainings" not in choice.reason


@pytest.mark.parametrize("seed", range(20))
def test_of_hits_the_difference_of_means_is_the_paired_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 300))
    first, second = rng.random((2, n)) < rng.random((2, 1))
    found = paired_difference_of_means(first, second)
    assert found == pytest.approx(paired_difference(first, second), rel=1e-12)


def test_the_error_of_a_difference_of_means_is_that_of_drawn_images() -> None:
    """Against the spread of the difference over many draws of images, seeds fixed."""
    rng = np.random.default_rng(0)
    errors, differences = [], []
    for _ in range(600):
        hard = rng.random(N)
        first, second = (
            np.mean([(hard + rng.normal(0, 0.2, N)) < level for _ in range(3)], axis=0)
            for level in (0.8, 0.75)
        )
        difference, error = paired_difference_of_means(first, second)
        errors.append(error)
        differences.append(difference)
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.1)


def _of_cell(hits: Mapping[str, np.ndarray], row: Row) -> np.ndarray:
    return hits[row.cell]


def as_good(seeds_sd: float, *, common: bool) -> float:
    """How often the cheaper of two equal configurations is as good as the other by the rule."""
    count = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        hard = rng.random(N)
        luck = rng.normal(0, seeds_sd, 3)
        rows: list[Row] = []
        hits: dict[str, np.ndarray] = {}
        for name, gmacs in (("cheap", 0.1), ("dear", 0.5)):
            own = luck if common else rng.normal(0, seeds_sd, 3)
            trunk = "t" if common else name
            right = [(hard + rng.normal(0, 0.1, N)) < 0.8 + shift for shift in own]
            made = repeats(trunk, *(int(r.sum()) for r in right), gmacs=gmacs, test_res=int(
                100 * gmacs))  # fmt: skip
            hits |= {row.cell: r for row, r in zip(made, right, strict=True)}
            rows += made
        choice = decide(rows, partial(_of_cell, hits))
        count += choice.row.gmacs == 0.1
    return count / 150


def test_the_chance_of_seeds_is_in_the_error_and_pairs_off_where_trunks_are_the_same() -> None:
    """Of equals the cheap one is the best, or within one error of it, in 84 % of all cases."""
    for seeds_sd, common in ((0.0, False), (0.05, False), (0.05, True)):
        assert 0.76 < as_good(seeds_sd, common=common) < 0.97


@pytest.mark.parametrize("times", [1, 3])
def test_picking_the_best_of_equal_repeats_is_counted(times: int) -> None:
    """All nets are as good: by how much what is handed over says too much is then known."""
    expected, said = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        right = rng.random((4, times, N)) < 0.7
        rows: list[Row] = []
        hits: dict[str, np.ndarray] = {}
        for name, own in zip("abcd", right, strict=True):
            made = repeats(name, *(int(r.sum()) for r in own))
            hits |= {row.cell: r for row, r in zip(made, own, strict=True)}
            rows += made
        choice = decide(rows, partial(_of_cell, hits))
        assert choice.expected is not None
        expected.append(choice.expected.top1)
        said.append(choice.row.top1)
    assert np.mean(said) > 0.715
    assert np.mean(expected) == pytest.approx(0.7, abs=0.008)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_means_over_classes_are_judged_likewise(metric: Metric) -> None:
    labels = np.arange(N) % 4

    def said(row: Row) -> tuple[np.ndarray, np.ndarray]:
        return labels, np.where(spread_hits(row), labels, (labels + 1) % 4)

    rows = []
    for row in [*repeats("l", 300, 345, 290), *repeats("s", 320, 324, 322)]:
        found = float(spread_hits(row).mean())
        rows.append(replace(row, balanced_accuracy=found, macro_f1=found))
    counted = with_repeats_counted(rows)
    choice = choose(counted, NO_LIMITS, spread_hits, metric, said)
    assert choice.row.trunk == "s1" and choice.expected is None
    assert counted[0].spread(metric) > counted[-1].spread(metric) > 0
