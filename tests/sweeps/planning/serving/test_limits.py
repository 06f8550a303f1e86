"""Limits on the model that is chosen: which are set, and what is within them."""

from __future__ import annotations

import pytest

from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.serving.limits import limits_in_words, limits_set
from tests.factories import a_row

LIMITS = ServingOptions(max_params_m=4.0, max_latency_ms=10.0, min_top1=0.5)


def test_limits_that_are_set_are_listed_in_the_order_of_the_options() -> None:
    assert limits_set(ServingOptions()) == []
    assert [(b.name, b.limit, b.cost) for b in limits_set(LIMITS)] == [
        ("max_params_m", 4.0, "params_m"),
        ("max_latency_ms", 10.0, "latency_ms"),
        ("min_top1", 0.5, "ranked_top1"),
    ]
    assert [str(b) for b in limits_set(LIMITS)] == ["4 M parameters", "10 ms", "0.5 val top-1"]


def test_limits_are_written_as_options() -> None:
    assert limits_in_words(ServingOptions()) == "none"
    assert limits_in_words(LIMITS) == "--max-params-m 4, --max-latency-ms 10, --min-top1 0.5"


@pytest.mark.parametrize(
    ("hits", "params_m", "excess"),
    [(50, 4.0, (0.0, 0.0)), (25, 5.0, (0.25, 0.5)), (75, 2.0, (-0.5, -0.5))],
)
def test_a_limit_is_missed_by_a_share_of_itself(
    hits: int, params_m: float, excess: tuple[float, float]
) -> None:
    row = a_row(hits, 100, params_m=params_m)
    params, _, top1 = limits_set(LIMITS)
    assert (params.at_least, top1.at_least) == (False, True)
    assert (params.excess(row), top1.excess(row)) == pytest.approx(excess)
    assert (params.admits(row), top1.admits(row)) == tuple(share <= 0 for share in excess)


def test_a_limit_on_what_was_not_measured_is_a_mistake_of_the_program() -> None:
    latency = limits_set(LIMITS)[1]
    with pytest.raises(AssertionError, match="latency_ms has not been measured"):
        latency.admits(a_row())
