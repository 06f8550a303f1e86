"""A journal is read whatever stands in it: what is lost is found in the store or decided anew."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.output.driver import Driver
from sweeps.planning.plan import Plan
from sweeps.scheduling import trunk_scheduler
from sweeps.scheduling.journal import Asked, Decided, Ended, Promoted, line_from_json, read_journal
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_sweep import propose
from tests.fake_training import SMALL_SPEC, Events, Farm, next_trunk, outcome, phase
from trainables.errors import ReplacedError, UserError
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines, write_json
from trainables.training.trunk import recorded_reports

PLAN = plan_of(spec_with(SMALL_SPEC, variants=("b0",), samples=2, survivors=2))
KEY = "0123456789abcdef"
OTHERS: tuple[Any, ...] = (None, [], {}, "../../x", -1.5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = (
    *("event", "index", "variant", "train_res", "trunk", "hyper"),
    *("group", "epoch", "top1", "goes_on", "why"),
)
VALUES = (
    st.sampled_from(
        ["ask", "rung", "promote", "end", "finished", "cut", "diverged", "failed", KEY, "b0"]
    )
    | JSON
    | st.fixed_dictionaries({"lr": JSON, "weight_decay": JSON, "label_smoothing": JSON})
)
LINES = st.dictionaries(st.sampled_from(FIELDS), VALUES) | JSON
quick = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_scheduler, "propose", propose)
    monkeypatch.setattr("os.fsync", lambda _: None)


@cache
def finished() -> Path:
    """The store of a finished phase, with the specs that real trainings write."""
    scheduler, store, *_ = phase(PLAN, Path(mkdtemp(prefix="finished-")))
    for trunk in scheduler.survivors():
        write_json(store.trunk(trunk.key) / "spec.json", trunk)
    return store.root


def begun(root: Path) -> Store[Path]:
    return Store(shutil.copytree(finished(), root, dirs_exist_ok=True))


def continued(plan: Plan, store: Store[Path]) -> tuple[TrunkScheduler, Farm]:
    scheduler, farm = TrunkScheduler(plan, store, Events()), Farm(plan, store)
    farm.run(scheduler)
    return scheduler, farm


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"event": "ask", "variant": "b0", "train_res": 64, "trunk": KEY,
             "hyper": {"lr": 0.1, "weight_decay": 0.2, "label_smoothing": 0}},
            Asked,
        ),
        (
            {"event": "ask", "index": 0, "trunk": KEY,
             "hyper": {"lr": 0.1, "weight_decay": 0.2, "label_smoothing": 0}},
            Asked,
        ),
        (
            {"event": "rung", "trunk": KEY, "epoch": 1, "top1": 0.5, "goes_on": True},
            Decided,
        ),
        (
            {"event": "rung", "group": "b0", "trunk": KEY, "epoch": 1, "top1": 0.5,
             "goes_on": True},
            Decided,
        ),
        ({"event": "promote", "trunk": KEY, "epoch": 1}, Promoted),
        ({"event": "end", "trunk": KEY, "why": "cut"}, Ended),
    ],
)  # fmt: skip
def test_lines_are_read_and_those_of_other_types_are_not(
    value: dict[str, Any], expected: type
) -> None:
    assert isinstance(line_from_json(value), expected)
    for name in value:
        for other in OTHERS:
            if not (name in ("group", "variant") and isinstance(other, str)):  # any text may
                with pytest.raises(Exception):  # noqa: B017, PT011 - of any type
                    line_from_json({**value, name: other})
        if name not in ("index", "variant", "train_res", "group"):
            with pytest.raises(Exception):  # noqa: B017, PT011
                line_from_json({k: v for k, v in value.items() if k != name})


@quick
@given(lines=st.lists(LINES, max_size=6), garbage=st.binary(max_size=60))
def test_any_line_among_good_ones_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any], garbage: bytes
) -> None:
    store = begun(tmp_path_factory.mktemp("phase"))
    good = store.journal.read_bytes()
    whole = outcome(TrunkScheduler(PLAN, store, Events()), store)["results"]
    noise = "".join(json.dumps(line) + "\n" for line in lines).encode()
    store.journal.write_bytes(noise + good + garbage.replace(b"\n", b"") + b"\n" + noise)
    scheduler, farm = continued(PLAN, store)
    assert scheduler.is_over and not farm.trained
    assert outcome(scheduler, store)["results"] == whole


@quick
@given(content=st.binary(max_size=200))
def test_any_bytes_for_a_journal_begin_it_anew(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    store = Store(tmp_path_factory.mktemp("phase"))
    store.journal.write_bytes(content)
    assert not read_journal(store, PLAN).asked


@pytest.mark.parametrize("event", ["ask", "rung", "promote", "end"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_lost_line_is_found_in_the_store(tmp_path: Path, event: str, damage: str) -> None:
    journal = read_lines(begun(tmp_path / "whole").journal)
    for number in [i for i, line in enumerate(journal) if line["event"] == event][:3]:
        store = begun(tmp_path / str(number))
        before = outcome(TrunkScheduler(PLAN, store, Events()), store)
        lines = store.journal.read_bytes().splitlines(keepends=True)
        if damage == "gone":
            lines[number] = b""
        elif damage == "cut":
            lines[number] = lines[number][:20] + b"\n"
        else:  # a digit of a key, or of a hyperparameter where it is proposed
            lines[number] = (
                lines[number]
                .replace(b'"lr":0.000', b'"lr":0.100')
                .replace(b'"trunk":"', b'"trunk":"f')
            )
        store.journal.write_bytes(b"".join(lines))
        scheduler, farm = continued(PLAN, store)
        after = outcome(scheduler, store)
        assert (after["results"], after["survivors"]) == (before["results"], before["survivors"])
        assert not farm.trained and scheduler.is_over
        assert outcome(TrunkScheduler(PLAN, store, Events()), store) == after


def test_the_journal_of_another_sweep_is_refused(tmp_path: Path) -> None:
    store = begun(tmp_path)
    other = plan_of(spec_with(PLAN.spec, seed=5))
    with pytest.raises(UserError, match=r"journal.jsonl is of another sweep \(none of its 4"):
        TrunkScheduler(other, store, Events())


def test_trunks_of_a_lost_journal_are_taken_from_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = begun(tmp_path)
    before = {p.parent.name: p.read_bytes() for p in store.root.glob("trunks/*/result.json")}
    store.journal.unlink()
    scheduler, farm = continued(PLAN, store)
    assert not farm.trained and scheduler.is_over
    assert "holds no line, though trunks are in the store" in caplog.text
    for key in before:
        assert recorded_reports(store, key)


@pytest.mark.parametrize("name", ["result.json", "error.txt"])
def test_a_trunk_whose_end_is_damaged_is_trained_again_to_the_same_end(
    tmp_path: Path, name: str
) -> None:
    store = begun(tmp_path)
    before = outcome(TrunkScheduler(PLAN, store, Events()), store)
    for number, path in enumerate(sorted(store.root.glob("trunks/*/result.json"))):
        (path.parent / name).write_bytes(b"\xff\xfe" if number % 2 else b"")
    scheduler, farm = continued(PLAN, store)
    assert bool(farm.trained) == (name == "result.json")
    assert outcome(scheduler, store)["results"] == before["results"]


def test_that_drivers_opened_the_journal_says_nothing_of_the_sweep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = begun(tmp_path)
    before = outcome(TrunkScheduler(PLAN, store, Events()), store)["results"]
    lines = store.journal.read_bytes()
    opening = b'{"driver":"process 7 on a","epoch":1,"event":"open","writer":"0"}\n'
    store.journal.write_bytes(opening + lines + opening)
    assert outcome(TrunkScheduler(PLAN, store, Events()), store)["results"] == before
    assert not caplog.text


def test_a_scheduler_that_was_replaced_decides_nothing_more(tmp_path: Path) -> None:
    """Not the trunk that it would cut loses its state, nor is anything told."""
    store, events = Store(tmp_path), Events()
    old = TrunkScheduler(PLAN, store, events, Driver().open_journal(store.journal))
    farm = Farm(PLAN, store)
    trunk = next_trunk(old)
    assert trunk is not None
    report = farm.step(trunk, 0)
    journal = Driver().open_journal(store.journal)
    before = store.journal.read_bytes(), len(events)
    with pytest.raises(ReplacedError, match=r"was continued by another sweep \(process"):
        old.report(trunk, report)
    with pytest.raises(ReplacedError):
        old.failed(trunk, "Boom")
    assert (store.journal.read_bytes(), len(events)) == before
    assert (store.trunk(trunk.key) / "state.pt").exists()
    new = TrunkScheduler(PLAN, store, Events(), journal)
    Farm(PLAN, store).run(new)
    assert new.is_over


def test_trunks_beyond_a_plan_are_left_out_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = plan_of(spec_with(SMALL_SPEC, samples=3))
    store = phase(large, tmp_path)[1]
    every = {trunk.key: trunk for trunk in read_journal(store, large).asked}
    small = plan_of(spec_with(SMALL_SPEC, samples=2, variants=("b1",), train_res=(96,)))
    asked = read_journal(store, small).asked
    assert [t.key for t in asked] == [k for k, t in every.items() if t.variant == "b1"
                                      and t.train_res == 96][:2]  # fmt: skip
    elsewhere = plan_of(spec_with(SMALL_SPEC, variants=("b2",)))
    assert not read_journal(store, elsewhere).asked
    assert not caplog.text
    with pytest.raises(UserError, match="is of another sweep"):
        read_journal(store, plan_of(spec_with(SMALL_SPEC, variants=("b1",), seed=9)))
