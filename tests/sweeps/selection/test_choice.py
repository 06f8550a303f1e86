"""The choice: the best, or a cheaper one within one standard error of the paired difference."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest

from sweeps.planning.options.groups import ServingOptions
from sweeps.selection.choice import Choice, choose, pareto_front
from sweeps.selection.cut_trunks import virtual_row
from sweeps.selection.leaderboard import Row
from sweeps.selection.row_metrics import with_class_metrics
from tests.factories import a_row, is_one_sentence
from trainables.errors import UserError
from trainables.evaluation.class_metrics import Metric, count_by_class
from trainables.fixres.arms import ARMS

NO_LIMITS = ServingOptions()


def nested(row: Row) -> np.ndarray:
    """Rows that agree on the images: a better one is right wherever a worse one is."""
    return np.arange(row.n) < row.hits1


def decide(rows: Sequence[Row], limits: ServingOptions = NO_LIMITS) -> Choice:
    return choose(rows, limits, nested)


def chosen(*rows: Row, limits: ServingOptions = NO_LIMITS) -> Row:
    return decide(rows, limits).row


def error_of(best: np.ndarray, other: np.ndarray) -> float:
    """Agresti and Min's: half an image more of each of the four kinds."""
    kinds = [(best & other), (best & ~other), (~best & other), (~best & ~other)]
    shares = np.array([kind.sum() + 0.5 for kind in kinds]) / (len(best) + 2)
    difference = np.array([0, 1, -1, 0])
    variance = (shares * difference**2).sum() - (shares * difference).sum() ** 2
    return math.sqrt(variance / (len(best) + 2))


def test_the_best_where_nothing_cheaper_comes_near() -> None:
    weak, best = a_row(500, 1000, gmacs=0.1), a_row(800, 1000, gmacs=0.5)
    result = decide([weak, best])
    assert result.row == best
    assert "80.0 %, n=1000" in result.reason and "best val top-1 of 2 rows" in result.reason


@pytest.mark.parametrize("n", [50, 400, 10_000])
def test_one_standard_error_of_the_paired_difference_is_the_border(n: int) -> None:
    """The best is right where the other is wrong on b images, and the other way round on c."""
    for c in (0, 3, 20):
        borders = set()
        for b in range(c, n - c):
            best, other = np.ones(n, bool), np.ones(n, bool)
            other[:b], best[b : b + c] = False, False
            rows = [
                a_row(int(hits.sum()), n, gmacs=gmacs, test_res=res)
                for hits, gmacs, res in ((best, 2.0, 96), (other, 1.0, 64))
            ]
            by_res = {96: best, 64: other}
            picked = choose(rows, NO_LIMITS, lambda r: by_res[r.test_res]).row  # noqa: B023
            tied = (b - c) / n <= error_of(best, other)
            assert picked == rows[int(tied)]
            borders.add(tied)
            if not tied:
                break
        assert borders == {True, False}


def test_rows_that_err_on_the_same_images_differ_sooner() -> None:
    best, near = a_row(900, 1000, gmacs=2.0), a_row(890, 1000, gmacs=1.0, test_res=64)
    assert chosen(best, near) == best  # ten images, all one way
    right = np.random.default_rng(0).permutation(nested(near))
    apart = choose([best, near], NO_LIMITS, lambda r: right if r == near else nested(r))
    assert apart.row == near  # ten more, among 180 that they disagree on


def test_a_cheaper_choice_is_explained_with_both_accuracies_and_costs() -> None:
    best = a_row(80, 100, gmacs=2.0, test_res=128)
    near = a_row(79, 100, gmacs=0.75, test_res=64)
    reason = decide([best, near]).reason
    assert "b0 64 -> 128 px" in reason and "80.0 %, n=100" in reason
    assert "b0 64 -> 64 px" in reason and "79.0 %, n=100" in reason
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
    result = decide(rows, both)
    assert result.row == wide and "within 20 M parameters and 4.9 GMACs" in result.reason


def test_limits_that_nothing_is_within_are_refused_with_the_nearest_miss() -> None:
    limits = ServingOptions(max_params_m=1.0, max_gmacs=9.0, min_top1=0.8)
    rows = [
        a_row(30, 50, params_m=4.0),
        a_row(45, 50, params_m=5.0, test_res=128),
        a_row(split="test", params_m=0.5),
    ]
    with pytest.raises(UserError) as refusal:
        chosen(*rows, limits=limits)
    message = str(refusal.value)
    assert is_one_sentence(message)
    assert message.startswith(
        "None of the 2 rows is within 1 M parameters and 9 GMACs and 0.8 val top-1: "
        "--max-params-m 1 rules out 2 (the least 4); --min-top1 0.8 rules out 1 (the most is 0.9)"
    )
    assert message.endswith(
        "nearest miss is b0 64 -> 96 px, crop 1.0, arm fix (60.0 %, n=50) with 4 M parameters."
    )


def test_latency_and_accuracy_are_limits_too() -> None:
    fast = a_row(60, 100, latency_ms=5.0, gmacs=2.0)
    slow = a_row(90, 100, latency_ms=15.0, gmacs=1.0, test_res=128)
    assert chosen(fast, slow, limits=ServingOptions(max_latency_ms=10.0)) == fast
    assert chosen(fast, slow, limits=ServingOptions(min_top1=0.7)) == slow
    reason = decide([fast, slow], ServingOptions(max_latency_ms=10.0)).reason
    assert "of 1 rows within 10 ms" in reason


def test_memory_is_a_limit_too() -> None:
    small = a_row(60, 100, memory_mb=20.0, gmacs=2.0)
    large = a_row(90, 100, memory_mb=30.0, gmacs=1.0, test_res=128)
    result = decide([small, large], ServingOptions(max_memory_mb=20.0))
    assert result.row == small and "of 1 rows within 20 MB" in result.reason
    with pytest.raises(UserError, match=r"--max-memory-mb 10 rules out 2 \(the least 20\)"):
        chosen(small, large, limits=ServingOptions(max_memory_mb=10.0))


def test_an_arm_that_leaves_no_plain_net_is_never_chosen() -> None:
    pool, plain = a_row(90, 100, arm="pool"), a_row(60, 100, arm="none")
    assert chosen(pool, plain) == plain
    assert pareto_front([pool, plain], "gmacs") == [plain]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("cost", ["gmacs", "params_m", "memory_mb", "latency_ms"])
def test_the_front_is_what_nothing_dominates(seed: int, cost: str) -> None:
    rng = random.Random(seed)
    rows = [
        a_row(
            rng.randint(10, 20),
            20,
            arm=rng.choice(list(ARMS)),
            gmacs=rng.choice((0.1, 0.2, 0.4, 0.8)),
            params_m=rng.choice((4.0, 8.0)),
            memory_mb=rng.choice((20.0, 30.0, 1500.0)),
            latency_ms=rng.choice((1.0, 2.0, 3.0)),
            train_res=32 * i,
        )
        for i in range(1, rng.randint(2, 20))
    ]
    plain = [r for r in rows if ARMS[r.arm].plain]
    undominated = {
        (getattr(r, cost), r.hits1)
        for r in plain
        if not any(
            getattr(o, cost) <= getattr(r, cost)
            and o.hits1 >= r.hits1
            and (getattr(o, cost), o.hits1) != (getattr(r, cost), r.hits1)
            for o in plain
        )
    }
    front = pareto_front(rows, cost)
    assert [(getattr(r, cost), r.hits1) for r in front] == sorted(undominated)


def test_only_val_chooses() -> None:
    val, test = a_row(50, 100), a_row(99, 100, split="test", gmacs=0.01)
    assert chosen(test, val) == val


def test_among_equals_in_cost_the_better_and_then_the_better_top5() -> None:
    rows = [a_row(70, 100, train_res=64), a_row(72, 100, train_res=96)]
    assert chosen(*rows) == rows[1] == chosen(*rows[::-1])
    tied = [a_row(70, 100, train_res=64, top5=0.8), a_row(70, 100, train_res=96, top5=0.9)]
    assert chosen(*tied) == tied[1] == chosen(*tied[::-1])


def test_a_tie_is_not_explained_as_a_saving() -> None:
    before, after = a_row(70, 100, arm="none", top5=0.9), a_row(70, 100, arm="fix", top5=0.8)
    reason = decide([before, after]).reason
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
    if not any(r.split == "val" for r in rows):
        return
    if not feasible:
        with pytest.raises(UserError):
            decide(rows, limits)
        return
    most = max(r.hits1 for r in feasible)
    top = np.arange(n) < most
    good = [r for r in feasible if (most - r.hits1) / n <= error_of(top, nested(r))]
    row = decide(rows, limits).row
    assert row in good
    for other in good:
        assert (other.gmacs, other.params_m, -other.hits1) >= (
            row.gmacs,
            row.params_m,
            -row.hits1,
        )
    assert decide(rng.sample(rows, len(rows)), limits).row.hits1 == row.hits1


# --- another metric -------------------------------------------------------------------------------

LABELS = np.repeat([0, 1], [950, 50])
ALWAYS_0 = np.zeros(1000, int)  # the larger class, whatever the image
FAIR = np.concatenate([np.repeat([0, 1], [855, 95]), np.repeat([0, 1], [5, 45])])  # 90 % of each
NEAR = FAIR.copy()
NEAR[0] = 1  # one image less


def counted(said: np.ndarray, **other: float) -> Row:
    counts = count_by_class(LABELS, said, 2)
    values = {m: float(counts.value(m)) for m in ("balanced_accuracy", "macro_f1")}
    return a_row(int((said == LABELS).sum()), 1000, **values, **other)


def test_the_metric_decides_and_is_named() -> None:
    rows = [counted(ALWAYS_0, gmacs=1.0, test_res=64), counted(FAIR, gmacs=2.0)]
    given = dict(zip(rows, (ALWAYS_0, FAIR), strict=True))

    def by(metric: Metric) -> Choice:
        return choose(
            rows, NO_LIMITS, lambda r: given[r] == LABELS, metric, lambda r: (LABELS, given[r])
        )

    assert by("top1").row == rows[0] and "val top-1 of 2 rows" in by("top1").reason
    fair = by("balanced_accuracy")
    assert fair.row == rows[1] and fair.metric == "balanced_accuracy"
    assert "(90.0 %, n=1000) is the best val balanced accuracy of 2 rows" in fair.reason
    assert by("macro_f1").row == rows[1] and "val macro-F1" in by("macro_f1").reason


def test_a_cheaper_row_within_the_bootstrap_error_is_chosen() -> None:
    rows = [counted(FAIR, gmacs=2.0), counted(NEAR, gmacs=1.0, test_res=64)]
    given = dict(zip(rows, (FAIR, NEAR), strict=True))
    result = choose(rows, NO_LIMITS, nested, "macro_f1", lambda r: (LABELS, given[r]))
    assert result.row == rows[1] and "within one standard error" in result.reason
    assert "val macro-F1" in result.reason and is_one_sentence(result.reason)


def test_a_front_is_by_the_metric() -> None:
    low = a_row(90, 100, gmacs=1.0, macro_f1=0.5)
    high = a_row(80, 100, gmacs=2.0, macro_f1=0.7, test_res=128)
    assert pareto_front([low, high], "gmacs") == [low]
    assert pareto_front([low, high], "gmacs", "macro_f1") == [low, high]


def test_metrics_that_an_earlier_version_did_not_count_are_counted_from_what_was_said() -> None:
    old = a_row(900, 1000)
    new, held_out = counted(FAIR, test_res=128), a_row(split="test")
    said = {old: (LABELS, FAIR)}
    filled = with_class_metrics([old, new, held_out], said.__getitem__)
    assert (filled[0].macro_f1, filled[0].balanced_accuracy) == (new.macro_f1, 0.9)
    assert filled[1:] == [new, held_out]


def test_a_row_whose_classifier_val_picked_is_ranked_by_its_cross_fitted_hits() -> None:
    flattered = a_row(900, 1000, crossfit_top1=0.8, gmacs=0.1)
    plain = a_row(850, 1000, arm="bn", gmacs=0.5)
    result = choose([flattered, plain], NO_LIMITS, lambda r: np.arange(r.n) < r.ranked_hits1)
    assert result.row == plain
    assert pareto_front([flattered, plain], "gmacs") == [flattered, plain]
    limited = ServingOptions(max_gmacs=0.2)
    result = choose([flattered, plain], limited, lambda r: np.arange(r.n) < r.ranked_hits1)
    assert result.row == flattered and "80.0 %, cross-fitted, n=1000" in result.reason
    assert result.optimism == pytest.approx(0.1, abs=0.005)
    assert result.expected is not None
    assert result.expected.top1 == pytest.approx(0.8, abs=0.005)
    with pytest.raises(UserError, match=r"--min-top1 0.88"):
        choose([flattered, plain], ServingOptions(min_top1=0.88), nested)


def test_trunks_that_val_cut_were_chosen_among_too() -> None:
    """Trunks of pure noise at a rung: keeping the luckiest of many flatters it."""
    rng = np.random.default_rng(0)
    n = 300
    best = rng.random(n) < 0.8
    row = a_row(int(best.sum()), n)
    alone = choose([row], NO_LIMITS, lambda _: best)
    stayed = best ^ (rng.random(n) < 0.1)
    others = [virtual_row(best, stayed, rng.random(n) < 0.8) for _ in range(10)]
    among = choose([row], NO_LIMITS, lambda _: best, cut=np.stack(others))
    assert among.row == row and alone.optimism == pytest.approx(0.0, abs=0.004)
    assert among.optimism > 0.01
    far = [virtual_row(best, stayed, rng.random(n) < 0.3) for _ in range(10)]
    behind = choose([row], NO_LIMITS, lambda _: best, cut=np.stack(far))
    assert behind.optimism == pytest.approx(0.0, abs=0.004)
