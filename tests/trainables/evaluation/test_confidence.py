import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from trainables.evaluation.confidence import (
    paired_difference,
    paired_error,
    standard_error,
    wilson,
)

COUNTS = [(0, 10), (10, 10), (1, 3), (37, 50), (4981, 5000), (0, 1)]


@pytest.mark.parametrize(("hits", "n"), COUNTS)
def test_wilson_is_scipys(hits, n):
    z = 1.96
    level = 1 - 2 * norm.sf(z)
    wanted = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson(hits, n) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_a_wider_interval_on_request():
    wanted = binomtest(37, 50).proportion_ci(1 - 2 * norm.sf(2.5758), method="wilson")
    assert wilson(37, 50, z=2.5758) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_wilson_stays_within_0_and_1_and_around_the_share():
    for n in (1, 7, 1000):
        for hits in {0, 1, n // 2, n}:
            low, high = wilson(hits, n)
            assert 0 <= low <= hits / n <= high <= 1
            assert low < high


def test_standard_error_is_the_usual_one_for_many_and_not_0_at_the_ends():
    assert standard_error(3000, 10000) == pytest.approx(math.sqrt(0.3 * 0.7 / 10000), rel=1e-3)
    assert standard_error(0, 20) == pytest.approx(standard_error(20, 20))
    assert standard_error(0, 20) > 0
    assert standard_error(8, 16) == pytest.approx(math.sqrt(0.25 / 20))  # 10 of 20


def test_a_paired_difference_is_that_of_the_shares():
    first = np.array([True] * 6 + [False] * 4)
    second = np.array([True] * 3 + [False] * 5 + [True] * 2)
    gain, error = paired_difference(first, second)
    assert gain == pytest.approx(0.6 - 0.5)
    assert error == paired_error(3, 2, 10)
    assert paired_difference(second, first) == pytest.approx((-gain, error))


def test_the_paired_error_is_the_usual_one_for_many_and_not_0_where_two_agree():
    only_first, only_second, n = 300, 200, 10_000
    draws = np.repeat([1, -1, 0], [only_first, only_second, n - only_first - only_second])
    assert paired_error(only_first, only_second, n) == pytest.approx(
        draws.std() / math.sqrt(n), rel=1e-2
    )
    assert paired_error(0, 0, 100) > 0
