"""The screen keeps the best share, and of each variant the best; what has no value stays."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.planning.grid import Point
from sweeps.planning.savings.screen import Screen, make_screen, nearest, screen_from_json
from trainables.storage.hashing import to_jsonable

POINTS = [Point(variant=v, train_res=r) for v in ("b0", "b1", "lite0") for r in (64, 96, 128)]
WORTH = st.one_of(st.none(), st.integers(0, 20).map(lambda hits: hits / 20))


def screen_with(share: float, values: dict[Point, float | None]) -> Screen:
    by_row = {(point.variant, point.train_res): value for point, value in values.items()}
    tests = {point: (point.train_res,) for point in values}
    return make_screen(
        share, "top1", 20, tests, lambda v, r: by_row[v, r], lambda point: float(point.train_res)
    )


@given(
    values=st.lists(WORTH, min_size=9, max_size=9),
    share=st.fractions(Fraction(1, 100), 1).map(float),
)
def test_the_best_share_stays_and_of_each_variant_the_best(
    values: list[float | None], share: float
) -> None:
    given_ = dict(zip(POINTS, values, strict=True))
    screen = screen_with(share, given_)
    known = {point for point, value in given_.items() if value is not None}
    assert {one.point for one in screen.ranked} == known
    staying = [one for one in screen.ranked if one.stays and not one.wildcard]
    assert len(staying) == math.ceil(round(share * len(known), 6))
    assert {one.variant for one in screen.ranked if one.stays} == {p.variant for p in known}
    for one in screen.left_out:
        own = [other for other in screen.ranked if other.variant == one.variant and other.stays]
        assert max(other.value for other in own) >= one.value
        assert all(other.value >= one.value for other in staying)
    for one in screen.ranked:
        assert not one.wildcard or one.stays
        assert one.value == given_[one.point]


def test_what_others_start_from_stays() -> None:
    values = {point: point.train_res / 200 for point in POINTS}
    tests = {point: (point.train_res,) for point in POINTS}
    bases = [point for point in POINTS if point.train_res == 64]
    screen = make_screen(
        0.1, "top1", 20, tests, lambda _, res: res / 200, lambda point: point.train_res, bases
    )
    stays = {one.point for one in screen.ranked if one.stays}
    assert stays == {point for point in values if point.train_res != 96}
    assert {one.point for one in screen.ranked if one.base} == set(bases)
    assert "kept for others to start from: b0 at 64 (32.0 %), " in screen.in_words


def test_of_equals_the_cheaper_stays() -> None:
    screen = screen_with(0.3, dict.fromkeys(POINTS[:3], 0.5))
    assert [one.train_res for one in screen.ranked if one.stays] == [64]


def test_a_point_is_ranked_at_the_test_resolution_nearest_to_its_train_resolution() -> None:
    assert nearest(96, (64, 128, 144)) == 128  # 1.33 times, and 1.5
    assert nearest(64, (64, 128)) == 64 and nearest(300, (64, 128)) == 128
    assert nearest(64, (32, 128)) == 128  # as near


def test_the_words_name_what_is_left_out_and_what_stays_for_its_variant() -> None:
    values = {p: (0.9 if p.variant != "lite0" else 0.1) - p.train_res / 1e4 for p in POINTS}
    words = screen_with(0.5, dict(values)).in_words
    assert words.startswith("--screen 0.5 leaves 3 of 9 variants and train resolutions out")
    assert "top-1 on val (n=20)" in words
    assert "left out: b1 at 128 (88.7 %), lite0 at 96" in words
    assert "kept as the best of its variant: lite0 at 64 (9.4 %)" in words


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_it_comes_back_from_json(share: float) -> None:
    screen = screen_with(share, {p: p.train_res / 200 for p in POINTS})
    assert screen_from_json(json.loads(json.dumps(to_jsonable(screen)))) == screen
    assert screen_from_json(None) is None
