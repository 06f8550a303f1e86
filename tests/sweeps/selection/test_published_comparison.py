"""What was measured beside the published figures."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.planning.spec import SweepSpec
from sweeps.selection.leaderboard import Row
from sweeps.selection.published_comparison import compare_with_published, comparisons_of_recipe
from tests.factories import a_row, spec_with


def row_of(variant: str, train_res: int, test_res: int, hits: int, **other: Any) -> Row:
    return a_row(hits, 1000, variant=variant, train_res=train_res, test_res=test_res, **other)


def test_the_best_row_at_the_published_resolutions_is_compared() -> None:
    best = row_of("b0", 224, 320, 790, arm="fix_aug")
    other = row_of("b0_ap", 224, 320, 800)
    rows = [
        row_of("b0", 224, 384, 999),  # another test resolution
        row_of("b0", 192, 320, 998),  # another train resolution
        other,
        row_of("b0", 224, 320, 997, split="test"),
        row_of("b0", 224, 320, 780, arm="none"),
        best,
        row_of("b0", 224, 320, 789),
        row_of("lite0", 224, 320, 996),  # nothing is published
    ]
    comparisons = compare_with_published(rows)
    assert [(c.published.variant, c.row) for c in comparisons] == [("b0", best), ("b0_ap", other)]
    assert [c.top1 for c in comparisons] == pytest.approx([79.0, 80.0])
    assert [c.gap for c in comparisons] == pytest.approx([-1.2, 0.7])
    on_test = compare_with_published(rows, split="test")
    assert [(c.row.split, c.row.n, c.row.top1) for c in on_test] == [("test", 1000, 0.997)]


@pytest.mark.parametrize("arms", [("none", "fix"), ("fix", "none")])
def test_of_equal_rows_the_cheaper_arm_is_compared(arms: tuple[str, ...]) -> None:
    rows = [row_of("b7", 600, 632, 870, arm=arm) for arm in arms]
    assert [c.row.arm for c in compare_with_published(rows)] == ["none"]


def test_nothing_measured_there_is_no_comparison() -> None:
    assert compare_with_published([]) == []
    assert compare_with_published([row_of("b0", 224, 224, 790)]) == []


@pytest.mark.parametrize(("recipe", "crop"), [("fixefficientnet", 1.0), ("fixres", 0.875)])
def test_only_a_published_recipe_is_compared_at_its_own_crop(recipe: str, crop: float) -> None:
    own, other = (
        row_of("b0", 224, 320, 700, crop_pct=crop),
        row_of("b0", 224, 320, 800, crop_pct=0.9),
    )
    assert comparisons_of_recipe(SweepSpec(), [other, own], own) == []
    (comparison,) = comparisons_of_recipe(spec_with(recipe=recipe), [other, own], other)
    assert comparison.row == own


def test_where_a_part_of_train_picks_the_chosen_row_is_compared_on_test() -> None:
    """Val is of images that the pretrained weights were trained on, whatever it says."""
    val = [row_of("b0", 224, 320, hits, arm=arm) for arm, hits in (("none", 880), ("fix", 900))]
    other = row_of("b1", 240, 384, 890)
    test = [row_of("b0", 224, 320, hits, arm=arm, split="test") for arm, hits in
            (("fix", 790), ("none", 795))]  # fmt: skip
    spec = spec_with(recipe="fixefficientnet", pick_share=0.02)
    (comparison,) = comparisons_of_recipe(spec, [*val, other, *test], val[1])
    assert comparison.row == test[0]  # not the better one on test, which picks nothing
    (comparison,) = comparisons_of_recipe(spec, [*val, other, *test], val[0])
    assert comparison.row == test[1]
