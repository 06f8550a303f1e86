"""Quantities as people read them."""

from __future__ import annotations

import pytest

from sweeps.planning.units import duration, price, three_digits


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (3.77, "3.8 s"),
        (119.4, "119 s"),
        (120.0, "2.0 min"),
        (1014.0, "17 min"),
        (3600.0, "60 min"),
        (7200.0, "2.0 h"),
        (7.2e6, "2,000 h"),
    ],
)
def test_a_duration_is_in_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [(0.0, "0.00"), (0.001, "< 0.01"), (0.01, "0.01"), (1234.567, "1,234.57")],
)
def test_an_amount_has_two_decimals(amount: float, words: str) -> None:
    assert price(amount) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.012345, "0.0123"), (2668.1, "2670"), (5.0, "5"), (480.31, "480")]
)
def test_three_digits_without_an_exponent(value: float, words: str) -> None:
    assert three_digits(value) == words
