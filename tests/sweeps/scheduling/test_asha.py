"""Rung decisions: Ray's ASHA for each group, and the same again after a replay."""

from __future__ import annotations

import random
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from sweeps.scheduling.asha import GroupedAsha

EPOCHS, GRACE, REDUCTION = 12, 1, 3
RUNGS = (1, 3, 9)
Report = tuple[str, str, int, float]  # group, trunk, epoch, top1


def make(reduction: int = REDUCTION) -> GroupedAsha:
    return GroupedAsha(epochs=EPOCHS, grace_epochs=GRACE, reduction=reduction)


class Ray:
    """Ray's scheduler, one for each group, fed directly."""

    def __init__(self, reduction: int):
        self.reduction = reduction
        self.groups: dict[str, AsyncHyperBandScheduler] = {}
        self.trials: dict[str, Any] = {}

    def should_continue(self, group: str, key: str, epoch: int, top1: float) -> bool:
        if group not in self.groups:
            self.groups[group] = AsyncHyperBandScheduler(
                time_attr="training_iteration",
                metric="m",
                mode="max",
                max_t=EPOCHS,
                grace_period=GRACE,
                reduction_factor=self.reduction,
            )
        scheduler: Any = self.groups[group]
        if key not in self.trials:
            self.trials[key] = SimpleNamespace(trial_id=key)
            scheduler.on_trial_add(None, self.trials[key])
        result = {"training_iteration": epoch, "m": top1}
        answer = scheduler.on_trial_result(None, self.trials[key], result)
        return bool(answer == TrialScheduler.CONTINUE)


class ByDefinition:
    """Stop below the upper 1/reduction of what was seen at the rung before."""

    def __init__(self, reduction: int):
        self.share = 100 * (1 - 1 / reduction)
        self.seen: dict[tuple[str, int], list[float]] = defaultdict(list)

    def should_continue(self, group: str, key: str, epoch: int, top1: float) -> bool:
        seen = self.seen[group, epoch]
        goes_on = not seen or top1 >= np.percentile(seen, self.share)
        seen.append(top1)
        return bool(goes_on)


def reports(seed: int, judge: Any) -> list[tuple[Report, bool]]:
    """What trunks report at rungs, interleaved at random, and what ``judge`` decides."""
    rng = random.Random(seed)
    waiting = [(("b0", "b1")[i % 2], f"trunk{i}", list(RUNGS)) for i in range(24)]
    decisions: list[tuple[Report, bool]] = []
    while waiting:
        group, key, rungs = rng.choice(waiting[:5])  # five at a time
        top1 = round(rng.random(), 1) if seed % 2 else rng.random()  # with ties, or none
        report = (group, key, rungs.pop(0), top1)
        goes_on = judge.should_continue(*report)
        decisions.append((report, goes_on))
        if not goes_on or not rungs:
            waiting.remove((group, key, rungs))
    return decisions


@pytest.mark.parametrize("oracle", [Ray, ByDefinition])
@pytest.mark.parametrize("reduction", [2, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_decides_as_asha_does(seed: int, reduction: int, oracle: Any) -> None:
    rungs_of = {2: {1, 2, 4, 8}, 3: {1, 3, 9}, 4: {1, 4}}[reduction]
    other, ours = oracle(reduction), make(reduction)
    decisions = [(r, on) for r, on in reports(seed, Ray(reduction)) if r[2] in rungs_of]
    assert [ours.should_continue(*r) for r, _ in decisions] == [
        other.should_continue(*r) for r, _ in decisions
    ]
    assert len({on for _, on in decisions}) == 2


@pytest.mark.parametrize("seed", range(10))
def test_groups_do_not_touch_each_other(seed: int) -> None:
    decisions = reports(seed, make())
    for group in ("b0", "b1"):
        alone = make()
        own = [(r, on) for r, on in decisions if r[0] == group]
        assert [alone.should_continue(*r) for r, _ in own] == [on for _, on in own]


def test_a_group_of_weak_trunks_keeps_its_best() -> None:
    halving = make()
    for i in range(9):
        assert halving.should_continue("strong", f"s{i}", 1, 0.9 + i / 100)
    assert all(halving.should_continue("weak", f"w{i}", 1, 0.1 + i / 100) for i in range(9))
    assert not halving.should_continue("weak", "late", 1, 0.1)


@pytest.mark.parametrize("seed", range(10))
def test_goes_on_after_a_replay_as_if_nothing_had_happened(seed: int) -> None:
    decisions = reports(seed, make())
    for stop in range(len(decisions) + 1):
        again = make()
        for (group, key, epoch, top1), went_on in decisions[:stop]:
            again.remember(group, key, epoch, top1, went_on)
        assert [again.should_continue(*r) for r, _ in decisions[stop:]] == [
            on for _, on in decisions[stop:]
        ]
        for (_, key, epoch, _), on in decisions:
            assert again.recall(key, epoch) is on


@pytest.mark.parametrize("went_on", [True, False])
def test_a_remembered_decision_stays_whatever_asha_would_say(went_on: bool) -> None:
    """The journal is right, though the order of arrival has been another."""
    halving = make()
    halving.remember("b0", "a", 1, 0.9, True)
    halving.remember("b0", "b", 1, 0.1, went_on)
    assert halving.recall("b", 1) is went_on
    assert halving.recall("b", 3) is None and halving.recall("c", 1) is None


def test_grace_beyond_the_end_leaves_no_rungs_to_cut_at() -> None:
    halving = GroupedAsha(epochs=3, grace_epochs=9, reduction=3)
    assert all(
        halving.should_continue("b0", f"t{i}", e, 1 - i / 9) for i in range(9) for e in (1, 2)
    )
