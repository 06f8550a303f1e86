"""The table of serving costs: complete, and written as tables show it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.serving.costs import COST_OF_FIELD, SERVING_COSTS
from sweeps.selection.leaderboard import Row


def test_every_cost_is_a_field_of_a_row_with_a_limit_of_its_own() -> None:
    assert set(COST_OF_FIELD) <= {field.name for field in fields(Row)}
    limits = [cost.limit for cost in SERVING_COSTS]
    assert sorted([*limits, "min_top1"]) == sorted(f.name for f in fields(ServingOptions))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("gmacs", 0.012345, "0.0123"),
        ("params_m", 4.0, "4.00"),
        ("memory_mb", 2668.1, "2670"),
        ("latency_ms", None, ""),
    ],
)
def test_a_cost_is_written_to_the_digits_that_matter(
    field: str, value: float | None, words: str
) -> None:
    assert COST_OF_FIELD[field].text(value) == words
