"""An early end is PASHA's: rungs open as long as the soft ranking changes, and no longer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.plan import Plan
from sweeps.report.model_card import model_card
from sweeps.scheduling.early_end import EarlyEndHalving, keeps_order, noise
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from sweeps.tracking.payloads import Results, result_note, result_tags
from tests.factories import plan_of, spec_with
from tests.fake_training import Events, Farm, outcome, phase
from tests.sweeps.report.finished_sweep import PLAN, an_outcome
from tests.sweeps.report.test_page import made
from trainables.evaluation.metrics import Score
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus, recorded_status

VALUES = st.lists(st.integers(0, 10).map(lambda hits: hits / 10), min_size=1, max_size=7)


def in_groups(before: dict[str, float], now: dict[str, float], epsilon: float) -> bool:
    """The paper's soft ranking: at each place of the former ranking a group of equals."""
    former = sorted(before, key=lambda key: before[key], reverse=True)
    groups: list[set[str]] = []
    for at, key in enumerate(former):
        group = {key}
        for step in (1, -1):
            other = at + step
            while 0 <= other < len(former):
                if abs(before[former[other]] - before[key]) > epsilon:
                    break
                group.add(former[other])
                other += step
        groups.append(group)
    ranked = sorted(now, key=lambda key: now[key], reverse=True)
    return all(key in groups[at] for at, key in enumerate(ranked))


@given(values=st.data(), epsilon=st.sampled_from([0.0, 0.15, 0.25, 1.0]))
@settings(deadline=None)
def test_the_soft_ranking_is_the_papers(values: st.DataObject, epsilon: float) -> None:
    one = values.draw(VALUES)
    other = values.draw(st.permutations(one) | st.just(one))
    before, now = ({f"t{i}": v for i, v in enumerate(v)} for v in (one, other))
    assert keeps_order(before, now, epsilon) == in_groups(before, now, epsilon)


def test_the_noise_is_the_standard_error_of_a_difference() -> None:
    assert noise({"a": 0.7, "b": 0.9}, 200) == pytest.approx((2 * 0.8 * 0.2 / 200) ** 0.5)


def run_through(halving: EarlyEndHalving, values: dict[str, list[float]]) -> dict[str, int]:
    """Train one trunk at a time, promotions first; returns the rung that each came to."""
    came: dict[str, int] = {}
    waiting = list(values)
    while halving.promotable() or waiting:
        if found := halving.promotable():
            key = found[0]
            halving.promote(key)
        else:
            key = waiting.pop(0)
            halving.begin(key)
        rung = halving.running[key]
        came[key] = rung
        if rung < 3:
            halving.arrive(key, values[key][rung])
        else:
            halving.leave(key, finished=True)
        for lost in halving.lost():
            halving.leave(lost)
    return came


def halving_with(trunks: int, images: int = 10**6) -> EarlyEndHalving:
    return EarlyEndHalving(rungs=3, reduction=2, trunks=trunks, images=images)


def test_where_the_ranking_stays_nothing_but_the_leader_passes_the_second_rung() -> None:
    values = {f"t{i}": [i / 10, i / 10 + 0.05, i / 10 + 0.06] for i in range(8)}
    halving = halving_with(8)
    came = run_through(halving, values)
    assert halving.top == 1 and came["t7"] == 3
    assert [key for key, rung in came.items() if rung > 1] == ["t7"]
    assert halving.spared and set(halving.spared) <= set(values) - {"t7"}
    assert not halving.waiting and halving.has_finished


def test_where_the_ranking_turns_the_next_rung_opens() -> None:
    values = {f"t{i}": [i / 10, 0.9 - i / 10, 0.5 + i / 100] for i in range(8)}
    halving = halving_with(8)
    came = run_through(halving, values)
    assert halving.top > 1 and sum(rung > 1 for rung in came.values()) > 1


def test_what_turns_within_the_noise_of_val_opens_nothing() -> None:
    values = {f"t{i}": [0.5 + i / 1000, 0.6 - i / 1000, 0.7] for i in range(8)}
    few, many = halving_with(8, images=100), halving_with(8)
    run_through(few, values)
    run_through(many, values)
    assert few.top == 1 < many.top


@given(
    values=st.lists(
        st.lists(st.integers(0, 9).map(lambda hits: hits / 9), min_size=3, max_size=3),
        min_size=1, max_size=12,
    ),
    images=st.sampled_from([5, 100, 10**6]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_one_trunk_goes_to_the_end_and_none_waits_for_ever(
    values: list[list[float]], images: int
) -> None:
    named = {f"t{i}": own for i, own in enumerate(values)}
    halving = halving_with(len(named), images)
    came = run_through(halving, named)
    assert halving.has_finished and not halving.waiting and not halving.running
    assert set(came) == set(named) and 3 in came.values()
    passed = [key for key, rung in came.items() if rung > halving.top]
    assert len(passed) <= 1, "the leader alone passes the rung that is open"


# --- a whole phase --------------------------------------------------------------------------------


def steady(plan: Plan, trunk: TrunkSpec, epoch: int) -> EpochReport:
    """The order of trunks is that of their learning rates, from the first epoch on."""
    hits = round(plan.counts["val"] * min(0.9, 100 * trunk.hyper.lr + epoch / 100))
    score = Score(split="val", n=plan.counts["val"], hits1=hits, hits5=hits)
    return EpochReport(
        epoch=epoch, loss=1.0, train_top1=0.5, images=1, lr=1e-3, seconds=1.0, at=1000 * epoch,
        val={64: score} if epoch in plan.rungs else {},
    )  # fmt: skip


def plan_with(*, early_end: bool) -> Plan:
    return plan_of(
        spec_with(
            variants=("b0",), train_res=(64, 96), test_res=(64,), epochs=16, samples=8,
            grace_epochs=1, reduction=2, searcher="random", early_end=early_end,
        ),
        val=1000,
    )  # fmt: skip


def test_a_phase_trains_less_ends_says_so_and_has_the_same_survivors(tmp_path: Path) -> None:
    plain, _, all_, _ = phase(plan_with(early_end=False), tmp_path / "a", steady)
    early, store, some, _ = phase(plan_with(early_end=True), tmp_path / "b", steady)
    assert early.is_over and not outcome(early, store)["open"]
    assert [t.key for t in early.survivors()] == [t.key for t in plain.survivors()]
    assert all(recorded_status(store, t.key) is TrunkStatus.FINISHED for t in early.survivors())
    assert len(some.trained) < len(all_.trained)
    assert plain.early_end == ""
    assert "no longer changed at 2 of 2" in early.early_end
    again = TrunkScheduler(plan_with(early_end=True), store, Events())
    Farm(plan_with(early_end=True), store, steady).run(again)
    assert again.early_end == early.early_end and again.survivors() == early.survivors()


def test_card_report_and_mlflow_say_what_ended_early() -> None:
    words = "--early-end: the ranking no longer changed at 2 of 2"
    found = replace(an_outcome(), early_end=words)
    assert words in model_card(PLAN, found, {}, "heatmap.png") and words in made(found)
    results = Results(choice=found.choice, rows=found.rows, early_end=words)
    assert result_tags(results)["early_end"] == words and words in result_note(results, [], "plan")
