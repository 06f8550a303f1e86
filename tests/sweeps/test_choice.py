"""The choice: the best, or a cheaper one within one standard error of it."""

from __future__ import annotations

import math
import random
import re

import pytest

from sweeps.choice import choose
from sweeps.leaderboard import Row
from sweeps.spec import ServingOptions
from tests.sweeps.test_leaderboard import a_row
from trainables.errors import UserError

NO_LIMITS = ServingOptions()


def chosen(*rows: Row, limits: ServingOptions = NO_LIMITS) -> Row:
    return choose(rows, limits).row


def error_of(hits: int, n: int) -> float:
    share = (hits + 2) / (n + 4)
    return math.sqrt(share * (1 - share) / (n + 4))


def test_the_best_where_nothing_cheaper_comes_near() -> None:
    weak, best = a_row(500, 1000, gmacs=0.1), a_row(800, 1000, gmacs=0.5)
    result = choose([weak, best], NO_LIMITS)
    assert result.row == best
    assert "80.0 %, n=1000" in result.reason and "best val top-1 of 2 rows" in result.reason


@pytest.mark.parametrize("n", [50, 400, 10_000])
def test_one_standard_error_is_the_border(n: int) -> None:
    hits = round(0.8 * n)
    best, slack = a_row(hits, n, gmacs=2.0), math.floor(error_of(hits, n) * n)
    near = a_row(hits - slack, n, gmacs=1.0, test_res=64)
    far = a_row(hits - slack - 1, n, gmacs=0.5, test_res=32)
    assert chosen(best, near, far) == near
    assert chosen(best, far) == best


def test_a_cheaper_choice_is_explained_with_both_accuracies_and_costs() -> None:
    best = a_row(80, 100, gmacs=2.0, test_res=128)
    near = a_row(78, 100, gmacs=0.75, test_res=64)
    reason = choose([best, near], NO_LIMITS).reason
    assert "b0 64 -> 128 px" in reason and "80.0 %, n=100" in reason
    assert "b0 64 -> 64 px" in reason and "78.0 %, n=100" in reason
    assert "at 0.75 instead of 2 GMACs" in reason and "one standard error" in reason


def test_limits_come_first() -> None:
    big = a_row(90, 100, gmacs=5.0, params_m=20.0)
    wide = a_row(80, 100, gmacs=1.0, params_m=20.0)
    small = a_row(60, 100, gmacs=1.0, params_m=5.0)
    rows = (big, wide, small)
    assert chosen(*rows) == big
    assert chosen(*rows, limits=ServingOptions(max_gmacs=1.0)) == wide
    assert chosen(*rows, limits=ServingOptions(max_params_m=5.0)) == small
    both = ServingOptions(max_params_m=20.0, max_gmacs=4.9)
    result = choose(rows, both)
    assert result.row == wide and "within 20 M parameters and 4.9 GMACs" in result.reason


def test_nothing_within_the_limits_is_the_users_to_mend() -> None:
    limits = ServingOptions(max_params_m=1.0, max_gmacs=9.0)
    with pytest.raises(UserError, match=r"None of the 1 rows is within 1 M parameters and 9 GMACs"):
        chosen(a_row(), a_row(split="test", params_m=0.5), limits=limits)


def test_only_val_chooses() -> None:
    val, test = a_row(50, 100), a_row(99, 100, split="test", gmacs=0.01)
    assert chosen(test, val) == val


def test_among_equals_in_cost_the_better_and_then_the_better_top5() -> None:
    rows = [a_row(70, 100, train_res=64), a_row(72, 100, train_res=96)]
    assert chosen(*rows) == rows[1] == chosen(*rows[::-1])
    tied = [a_row(70, 100, train_res=64, top5=0.8), a_row(70, 100, train_res=96, top5=0.9)]
    assert chosen(*tied) == tied[1] == chosen(*tied[::-1])


def test_a_tie_is_not_told_as_a_saving() -> None:
    before, after = a_row(70, 100, arm="none", top5=0.9), a_row(70, 100, arm="fix", top5=0.8)
    reason = choose([before, after], NO_LIMITS).reason
    costs = re.search(r"at (\S+) instead of (\S+) GMACs", reason)
    assert costs is None or costs[1] != costs[2], reason


@pytest.mark.parametrize("seed", range(150))
def test_against_the_definition_on_random_rows(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.choice((20, 100, 1000))
    rows = [
        a_row(
            rng.randint(n // 2, n),
            n,
            split=rng.choice(("val", "val", "val", "test")),
            gmacs=rng.choice((0.1, 0.2, 0.4, 0.8)),
            params_m=rng.choice((4.0, 8.0)),
            arm=rng.choice(("none", "fix")),
            train_res=32 * i,
        )
        for i in range(1, rng.randint(2, 15))
    ]
    limits = ServingOptions(
        max_params_m=rng.choice((None, 4.0)), max_gmacs=rng.choice((None, 0.2, 0.4))
    )
    feasible = []
    for row in rows:
        light = limits.max_params_m is None or row.params_m <= limits.max_params_m
        quick = limits.max_gmacs is None or row.gmacs <= limits.max_gmacs
        if row.split == "val" and light and quick:
            feasible.append(row)
    if not feasible:
        with pytest.raises(UserError):
            choose(rows, limits)
        return
    most = max(r.hits1 for r in feasible)
    good = [r for r in feasible if (most - r.hits1) / n <= error_of(most, n)]
    row = choose(rows, limits).row
    assert row in good
    for other in good:
        assert (other.gmacs, other.params_m, -other.hits1) >= (
            row.gmacs,
            row.params_m,
            -row.hits1,
        )
    assert choose(rng.sample(rows, len(rows)), limits).row.hits1 == row.hits1
