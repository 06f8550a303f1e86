"""Phase 1 of a sweep that is continued with more trunks, or viewed with fewer, again and again."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.scheduling import trunk_scheduler
from sweeps.scheduling.journal import read_journal
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_sweep import propose
from tests.fake_training import SMALL_SPEC, Events, Farm
from trainables.storage.artifact_store import Store
from trainables.training.trunk import TrunkStatus

COMMANDS = st.fixed_dictionaries(
    {
        "samples": st.integers(1, 9),
        "repeat": st.integers(1, 3),
        "variants": st.sampled_from([("b0",), ("b1",), ("b0", "b1"), ("b1", "b0")]),
        "train_res": st.sampled_from([(64,), (96,), (64, 96)]),
        "test_res": st.sampled_from([(64,), (64, 128), (96, 64)]),
    }
)
quick = settings(max_examples=8, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _pure_proposals() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk_scheduler, "propose", propose)
        patch.setattr("os.fsync", lambda _: None)
        yield


def run(plan: Plan, root: Path, seed: int = 0) -> tuple[TrunkScheduler, Farm]:
    store, rng = Store(root), random.Random(seed)
    scheduler, farm = TrunkScheduler(plan, store, Events()), Farm(plan, store)
    farm.run(scheduler, concurrency=rng.randint(1, 4), rng=rng)
    assert scheduler.is_over
    return scheduler, farm


def plan_with(command: dict[str, Any], **options: Any) -> Plan:
    return plan_of(spec_with(SMALL_SPEC, **command, **options))


def results_of(root: Path) -> dict[str, tuple[str, int]]:
    found = {p.parent.name: json.loads(p.read_text()) for p in root.glob("trunks/*/result.json")}
    return {key: (value["why"], len(value["reports"])) for key, value in found.items()}


@quick
@given(commands=st.lists(COMMANDS, min_size=2, max_size=5), seed=st.integers(0, 99))
def test_no_epoch_is_trained_twice_and_nothing_that_ended_changes(
    commands: list[dict[str, Any]], seed: int
) -> None:
    trained: Counter[tuple[str, int]] = Counter()
    with TemporaryDirectory() as name:
        root, before = Path(name), dict[str, tuple[str, int]]()
        for command in commands:
            plan = plan_with(command)
            scheduler, farm = run(plan, root, seed)
            trained += farm.trained
            after = results_of(root)
            assert before.items() <= after.items()
            before = after
            asked = [t for t in read_journal(Store(root), plan).asked if not t.repeat]
            assert Counter(map(point_of, asked)) == dict.fromkeys(plan.points, plan.samples)
            assert {point_of(trunk) for trunk in scheduler.survivors()} == set(plan.points)
            again, idle = run(plan, root, seed)  # the same command: nothing is left to do
            assert not idle.trained and again.survivors() == scheduler.survivors()
    assert set(trained.values()) <= {1}


@quick
@given(commands=st.lists(COMMANDS, min_size=2, max_size=4), seed=st.integers(0, 99))
def test_the_hyperparameters_of_a_point_are_those_of_one_run(
    commands: list[dict[str, Any]], seed: int
) -> None:
    with TemporaryDirectory() as name:
        most = max(command["samples"] for command in commands)
        for command in commands:
            run(plan_with(command), Path(name, "steps"), seed)
        last = commands[-1] | {"samples": most}
        steps, whole = (plan_with(last), plan_with(last))
        run(steps, Path(name, "steps"), seed)
        run(whole, Path(name, "whole"), seed)
        asked = [
            {t.key for t in read_journal(Store(Path(name, folder)), whole).asked if not t.repeat}
            for folder in ("steps", "whole")
        ]
        assert asked[0] == asked[1]


@quick
@given(samples=st.lists(st.integers(1, 9), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_without_rungs_steps_come_to_what_one_run_does(samples: list[int], seed: int) -> None:
    with TemporaryDirectory() as name:
        for n in sorted(samples):
            plan = plan_with({"samples": n}, grace_epochs=6)
            steps, _ = run(plan, Path(name, "steps"), seed)
        whole, _ = run(plan, Path(name, "whole"), seed)
        assert results_of(Path(name, "steps")) == results_of(Path(name, "whole"))
        assert {t.key for t in steps.survivors()} == {t.key for t in whole.survivors()}


@quick
@given(samples=st.lists(st.integers(1, 12), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_each_point_has_a_trunk_that_is_trained_to_the_end(samples: list[int], seed: int) -> None:
    """Where trunks were cut before there were more, others may go on than in one run."""
    with TemporaryDirectory() as name:
        for n in sorted(samples):
            plan = plan_with({"samples": n})
            scheduler, _ = run(plan, Path(name), seed)
            results = results_of(Path(name))
            for trunk in scheduler.survivors():
                assert results[trunk.key] == (TrunkStatus.FINISHED, 6)
            assert {point_of(t) for t in scheduler.survivors()} == set(plan.points)
