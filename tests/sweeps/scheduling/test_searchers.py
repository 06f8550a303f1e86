"""Each searcher in the schedule: killed, typed in another order, with several trials at a time."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from sweeps.planning.options.search_options import Searcher
from sweeps.planning.plan import Plan
from sweeps.planning.search import settings_of
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_training import SMALL_SPEC, Events, Farm, outcome, phase
from trainables.storage.artifact_store import Store
from trainables.storage.fenced_log import FencedLog
from trainables.storage.files import append_line, read_lines

SEARCHERS = get_args(Searcher)
SPACE: dict[str, Any] = {
    "optimizer": {"choices": ["sgd", "adamw"]},
    "batch_size": {"low": 8, "high": 128, "log": True},
    "crop_scale": {"choices": [[0.08, 1.0], [0.25, 1.0]]},
}
TRIES: tuple[Any, ...] = ({"lr": 1e-3, "batch_size": 16}, {"train_res": 96, "optimizer": "adamw"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def plan_with(searcher: str, **options: Any) -> Plan:
    found = {"variants": ("b0",), "epochs": 4, "samples": 5, "space": SPACE, "try_": TRIES}
    return plan_of(spec_with(SMALL_SPEC, **{**found, "searcher": searcher, **options}))


def asked(store: Store[Path]) -> dict[tuple[str, int], list[Any]]:
    """What was proposed at each point, in order."""
    found = defaultdict(list)
    for line in read_lines(store.journal):
        if line["event"] == "ask":
            found[line["variant"], line["train_res"]].append(line["hyper"])
    return found


class Killed(BaseException):
    """The driver is gone."""


def prefixes(plan: Plan, root: Path) -> Iterator[Store[Path]]:
    """Stores of a driver that was killed before it wrote line 0, 1, 2 and so on of its journal."""
    at = 0
    while True:
        store, lines = Store(root / str(at)), iter(range(at))

        def append(log: FencedLog, line: Any, left: Iterator[int] = lines) -> None:
            if next(left, None) is None:
                raise Killed
            append_line(log.path, line)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FencedLog, "append", append)
            try:
                Farm(plan, store).run(TrunkScheduler(plan, store, Events()))
                return
            except Killed:
                pass
        yield store
        at += 1


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_resumed_from_any_prefix_of_the_journal_the_same_is_proposed(
    searcher: str, tmp_path: Path
) -> None:
    plan = plan_with(searcher, samples=4, epochs=2)
    calm, store, *_ = phase(plan, tmp_path / "calm")
    expected, count = outcome(calm, store), 0
    assert sum(map(len, asked(store).values())) == plan.trunks == 8
    for killed in prefixes(plan, tmp_path):
        scheduler, resumed, *_ = phase(plan, killed.root)
        assert outcome(scheduler, resumed) == expected
        count += 1
    assert count > 20


@pytest.mark.parametrize("searcher", ["random", "qmc"])
@pytest.mark.parametrize("concurrency", [2, 5])
def test_without_results_concurrency_changes_no_proposal(
    searcher: str, concurrency: int, tmp_path: Path
) -> None:
    plan = plan_with(searcher)
    _, one, *_ = phase(plan, tmp_path / "one")
    _, other, *_ = phase(plan, tmp_path / "other", concurrency=concurrency)
    assert asked(one) == asked(other)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_the_order_of_options_and_entries_decides_nothing(searcher: str, tmp_path: Path) -> None:
    plan = plan_with(searcher)
    turned = plan_with(
        searcher,
        train_res=(96, 64),
        test_res=(128, 64, 96),
        space=dict(reversed(SPACE.items())),
        try_=tuple(dict(reversed(given.items())) for given in TRIES),
    )
    assert turned.points != plan.points
    _, one, *_ = phase(plan, tmp_path / "one")
    _, other, *_ = phase(turned, tmp_path / "other")
    assert one.journal.read_bytes() == other.journal.read_bytes()


def test_trunks_are_trained_by_what_was_proposed_and_the_journal_says_it(tmp_path: Path) -> None:
    plan = plan_with("tpe")
    scheduler, store, *_ = phase(plan, tmp_path)
    by_key = {line["trunk"]: line for line in read_lines(store.journal) if line["event"] == "ask"}
    for trunk in scheduler.survivors():
        settings = settings_of(trunk)
        hyper = by_key[trunk.key]["hyper"]
        assert hyper.keys() == {"lr", "weight_decay", "label_smoothing", *SPACE}
        assert all(tuple(v) == settings[n] if isinstance(v, list) else v == settings[n]
                   for n, v in hyper.items())  # fmt: skip
        assert trunk.recipe.batch_size == hyper["batch_size"]
        assert list(trunk.recipe.augmentation.crop_scale) == hyper["crop_scale"]
    first = {key: found[0] for key, found in asked(store).items()}
    assert {hyper["batch_size"] for hyper in first.values()} == {16}
    assert [found[1]["optimizer"] for key, found in asked(store).items() if key[1] == 96] == [
        "adamw"
    ]


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_small_space_is_tried_whole_and_nothing_twice(searcher: str, tmp_path: Path) -> None:
    space = {"lr": {"choices": [1e-3, 2e-3]}, "optimizer": {"choices": ["sgd", "adamw"]}}
    fixed = {"weight_decay": (0.01, 0.01), "label_smoothing": (0.1, 0.1)}
    plan = plan_with(searcher, space=space, try_=None, samples=9, **fixed)
    assert plan.samples == 4
    _, store, *_ = phase(plan, tmp_path)
    for found in asked(store).values():
        counted = Counter((hyper["lr"], hyper["optimizer"]) for hyper in found)
        assert counted == {(lr, o): 1 for lr in (1e-3, 2e-3) for o in ("sgd", "adamw")}
