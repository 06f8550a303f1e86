import math

import pytest
from scipy.stats import binomtest, norm

from trainables.evaluation.confidence import standard_error, wilson

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
