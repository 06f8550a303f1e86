"""What a range admits."""

from __future__ import annotations

import pytest

from sweeps.planning.options.ranges import Range


@pytest.mark.parametrize(
    ("allowed", "words", "inside", "outside"),
    [
        (Range(2), "at least 2", (2, 1e9), (1.99, float("nan"), float("inf"))),
        (Range(0, open_low=True), "more than 0", (1e-9,), (0, -1)),
        (Range(0, 1), "from 0 to 1", (0, 1), (-0.01, 1.01)),
        (Range(0, 1, open_low=True), "above 0 to 1", (0.01, 1), (0,)),
        (Range(0, 0.5, open_high=True), "from 0 to below 0.5", (0, 0.49), (0.5,)),
    ],
    ids=str,
)
def test_a_range_admits_what_it_says(
    allowed: Range, words: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert str(allowed) == words
    assert all(allowed.admits(value) for value in inside)
    assert not any(allowed.admits(value) for value in outside)
