"""Phase 1 without training: fake trunks whose accuracy is a function of their hyperparameters."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sweeps.events.event_types import EpochEnded, TrunkBegan, TrunkEnded, TrunkPaused
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw
from sweeps.planning.spec import SweepSpec
from sweeps.planning.workload import most_waiting
from sweeps.scheduling import trunk_scheduler as module
from sweeps.scheduling.halving import Halving
from sweeps.scheduling.proposals import propose
from sweeps.scheduling.repair import with_repairs
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import plan_of, spec_with
from tests.fake_training import (
    SMALL_SPEC,
    Events,
    Farm,
    Training,
    accuracy,
    diverging,
    next_trunk,
    outcome,
    phase,
    report_of,
)
from trainables.evaluation.class_metrics import Metric
from trainables.storage import fenced_log
from trainables.storage.artifact_store import Store
from trainables.storage.files import append_bytes, append_line, read_lines
from trainables.training import trunk
from trainables.training.recipe import Hyper
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports


def with_macro_f1(plan: Plan, trunk: TrunkSpec, epoch: int, at: int = 0) -> EpochReport:
    """Macro-F1 says the reverse of top-1."""
    report = report_of(plan, trunk, epoch, at)
    val = {res: replace(s, macro_f1=1 - s.top1) for res, s in report.val.items()}
    return replace(report, val=val)


def test_rungs_proposals_and_survivors_go_by_the_metric(tmp_path: Path) -> None:
    metrics: tuple[Metric, ...] = ("top1", "macro_f1")
    proposed = {}
    for metric in metrics:
        plan = plan_of(spec_with(SMALL_SPEC, metric=metric))
        store, events = Store(tmp_path / metric), Events()
        scheduler = TrunkScheduler(plan, store, events)
        Farm(plan, store, with_macro_f1).run(scheduler)
        ended = {e.trunk.key: e for e in events if isinstance(e, TrunkEnded)}
        values = {
            (key, r.epoch): max(s.value(metric) for s in r.val.values())
            for key, end in ended.items()
            for r in end.reports
            if r.val
        }
        rungs = [line for line in read_lines(store.journal) if line["event"] == "rung"]
        assert rungs
        assert all(line["top1"] == values[line["trunk"], line["epoch"]] for line in rungs)
        merits = {key: max((e, v) for (k, e), v in values.items() if k == key) for key in ended}
        for survivor in scheduler.survivors():
            rivals = [key for key, e in ended.items() if point_of(e.trunk) == point_of(survivor)]
            assert merits[survivor.key] == max(merits[key] for key in rivals)
        proposed[metric] = [end.trunk.hyper for end in ended.values()]
    assert set(proposed["top1"]) != set(proposed["macro_f1"])  # TPE was told otherwise


class Killed(BaseException):
    """The driver is gone."""


# --- fake training ----------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """``propose`` is pure (see test_proposals): the same question has the same answer. And no
    power is cut here, so nothing waits for the disk."""
    proposals: dict[str, Any] = {}
    real = propose

    def remembered(*args: Any, **kwargs: Any) -> Any:
        question = repr((args, kwargs))
        if question not in proposals:
            proposals[question] = real(*args, **kwargs)
        return proposals[question]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "propose", remembered)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def plan() -> Plan:
    return plan_of(SMALL_SPEC)


# --- undisturbed ------------------------------------------------------------------------------


def check_whole(
    plan: Plan, scheduler: TrunkScheduler, store: Store[Path], farm: Farm, events: Events
):
    journal = read_lines(store.journal)
    proposed = [line for line in journal if line["event"] == "ask"]
    ended = Counter(line["trunk"] for line in journal if line["event"] == "end")
    assert Counter((line["variant"], line["train_res"]) for line in proposed) == {
        (point.variant, point.train_res): plan.samples for point in plan.points
    }
    assert ended == Counter(line["trunk"] for line in proposed), "each trunk ends exactly once"
    assert set(ended.values()) == {1}
    began = [e.trunk for e in events if isinstance(e, TrunkBegan) and not e.after]
    ends = [e.trunk.key for e in events if isinstance(e, TrunkEnded)]
    at = Counter(point_of(t) for t in began)
    assert at == dict.fromkeys(plan.points, plan.spec.search.samples)
    assert sorted(ends) == sorted(t.key for t in began) == sorted(ended)
    assert set(farm.trained.values()) == {1}, "no epoch is trained twice"
    for key in ended:
        epochs = [r.epoch for r in recorded_reports(store, key)]
        assert epochs == list(range(1, len(epochs) + 1))
        assert sorted(e for k, e in farm.trained if k == key) == epochs
    assert scheduler.is_over and next_trunk(scheduler) is None
    assert outcome(scheduler, store)["open"] == []
    gone_on = [e.trunk.key for e in events if isinstance(e, TrunkBegan) and e.after]
    waited = [e.trunk.key for e in events if isinstance(e, TrunkPaused)]
    assert Counter(gone_on) <= Counter(waited)


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_every_point_gets_its_samples_and_every_trunk_ends_once(
    plan: Plan, tmp_path: Path, concurrency: int, seed: int
) -> None:
    whole = phase(plan, tmp_path, concurrency=concurrency, rng=random.Random(seed))
    check_whole(plan, *whole)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_some_trunk_of_every_point_is_trained_to_the_end(
    plan: Plan, tmp_path: Path, concurrency: int, seed: int
) -> None:
    scheduler, store, *_ = phase(plan, tmp_path, concurrency=concurrency, rng=random.Random(seed))
    finished = {
        point_of(trunk)
        for trunk in scheduler.survivors()
        if recorded_reports(store, trunk.key)[-1].epoch == plan.spec.trunks.epochs
    }
    assert finished == set(plan.points)


def test_ends_are_what_the_rungs_say(plan: Plan, tmp_path: Path) -> None:
    _, store, _, events = phase(plan, tmp_path)
    decisions: dict[tuple[str, int], bool] = {}
    for line in read_lines(store.journal):
        if line["event"] == "rung":
            decisions[line["trunk"], line["epoch"]] = line["goes_on"]
        elif line["event"] == "promote":
            assert decisions[line["trunk"], line["epoch"]] is False
            decisions[line["trunk"], line["epoch"]] = True
    whys: Counter[str] = Counter()
    for event in events:
        if isinstance(event, TrunkEnded):
            key, last = event.trunk.key, event.reports[-1].epoch
            whys[event.status] += 1
            assert event.status == ("finished" if last == 6 else "cut")
            expected = {e: e < last or event.status == "finished" for e in (1, 2, 4) if e <= last}
            assert {e: on for (k, e), on in decisions.items() if k == key} == expected
    assert whys["finished"] and whys["cut"]


def test_rung_metric_is_the_best_over_test_resolutions(plan: Plan, tmp_path: Path) -> None:
    _, store, _, events = phase(plan, tmp_path)
    trunks = {e.trunk.key: e.trunk for e in events if isinstance(e, TrunkBegan)}
    rungs = [line for line in read_lines(store.journal) if line["event"] == "rung"]
    for line in rungs:
        trunk = trunks[line["trunk"]]
        best = max(accuracy(trunk, line["epoch"], res) for res in plan.grid.test_res)
        assert line["top1"] == round(50 * best) / 50


def test_points_take_turns_the_dearest_first(plan: Plan, tmp_path: Path) -> None:
    *_, events = phase(plan, tmp_path)
    points = [point_of(e.trunk) for e in events if isinstance(e, TrunkBegan) and not e.after]
    names = [("b1", 96), ("b0", 96), ("b1", 64), ("b0", 64)]  # GMACs 1.8, 0.9, 0.8, 0.4
    assert points == [Point(variant=v, train_res=r) for v, r in names] * 3


@pytest.mark.parametrize("concurrency", [1, 2])
def test_promotions_come_before_new_trunks_once_all_have_come_to_the_first_rung(
    plan: Plan, tmp_path: Path, concurrency: int
) -> None:
    *_, events = phase(plan, tmp_path, concurrency=concurrency)
    halvings = {point: Halving(rungs=3, reduction=2, trunks=plan.samples) for point in plan.points}
    came: Counter[Point] = Counter()  # to the first rung

    def to_go_on(point: Point) -> list[str]:
        all_came, halving = came[point] == plan.samples, halvings[point]
        return [key for key in halving.promotable() if all_came or halving.waiting[key] > 0]

    for event in events:
        if isinstance(event, TrunkBegan):
            halving = halvings[point_of(event.trunk)]
            if event.after:
                assert event.trunk.key in to_go_on(point_of(event.trunk))
                halving.promote(event.trunk.key)
            else:
                assert not any(map(to_go_on, plan.points))
                halving.begin(event.trunk.key)
        elif isinstance(event, TrunkPaused | EpochEnded):
            key, halving = event.trunk.key, halvings[point_of(event.trunk)]
            if isinstance(event, TrunkPaused) or event.report.epoch not in (1, 2, 4):
                continue
            best = event.report.best_val
            assert best is not None
            halving.arrive(key, best.top1)
            came[point_of(event.trunk)] += event.report.epoch == 1
            if event.should_continue:
                assert key in to_go_on(point_of(event.trunk))
                halving.promote(key)
        elif isinstance(event, TrunkEnded):
            finished = event.status == "finished"
            halvings[point_of(event.trunk)].leave(event.trunk.key, finished=finished)


@pytest.mark.parametrize("concurrency", [1, 3, 8])
@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_the_best_of_all_go_on_from_the_first_rung_and_no_others(
    tmp_path: Path, samples: int, concurrency: int
) -> None:
    plan = plan_of(spec_with(SMALL_SPEC, samples=samples, reduction=3))
    _, store, *_ = phase(plan, tmp_path, concurrency=concurrency, rng=random.Random(samples))
    journal = read_lines(store.journal)
    asked = [line for line in journal if line["event"] == "ask"]
    rungs = [line for line in journal if line["event"] == "rung"]
    first = {line["trunk"]: line["top1"] for line in rungs if line["epoch"] == 1}
    second = {line["trunk"] for line in rungs if line["epoch"] == 3}
    for point in plan.points:
        at = (point.variant, point.train_res)
        own = [line["trunk"] for line in asked if (line["variant"], line["train_res"]) == at]
        gone_on = [first[key] for key in own if key in second]
        assert sorted(gone_on) == sorted(first[key] for key in own)[-max(1, samples // 3) :]


def permuted(plan: Plan, seed: int) -> Plan:
    """The same plan, its variants and resolutions typed in another order."""
    grid, rng = plan.spec.grid, random.Random(seed)
    assert isinstance(grid.train_res, tuple) and isinstance(grid.test_res, tuple)
    axes: dict[str, Any] = {
        "variants": tuple(rng.sample(grid.variants, len(grid.variants))),
        "train_res": tuple(rng.sample(grid.train_res, len(grid.train_res))),
        "test_res": tuple(rng.sample(grid.test_res, len(grid.test_res))),
    }
    return replace(plan_of(spec_with(plan.spec, **axes)), costs=plan.costs, weights=plan.weights)


@pytest.mark.parametrize("seed", range(6))
def test_the_order_in_which_options_are_typed_decides_nothing(tmp_path: Path, seed: int) -> None:
    axes: dict[str, Any] = {"variants": ("b0", "b1", "b2"), "train_res": (64, 96, 128)}
    plan = plan_of(spec_with(SMALL_SPEC, **axes))
    other = permuted(plan, seed)
    assert other.points != plan.points
    one, first, *_ = phase(plan, tmp_path / "one")
    two, second, *_ = phase(other, tmp_path / "two")
    assert first.journal.read_bytes() == second.journal.read_bytes()
    assert {t.key for t in one.survivors()} == {t.key for t in two.survivors()}


@pytest.mark.parametrize("queued", [1, 5, 12])
def test_a_trial_is_given_its_hyperparameters_when_it_starts(
    plan: Plan, tmp_path: Path, queued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are queued, each proposal sees all that had been reported by then."""
    seen: list[tuple[str, int]] = []

    def counting(search: Any, point: Point, history: Any, **_: Any) -> Draw:
        seen.append((point.variant, sum(len(trial.values) for trial in history)))
        hyper = Hyper(lr=1e-3 * (1 + len(history)), weight_decay=0.01, label_smoothing=0.1)
        return Draw(hyper=hyper)

    monkeypatch.setattr(module, "propose", counting)
    store, events = Store(tmp_path), Events()
    scheduler, farm = TrunkScheduler(plan, store, events), Farm(plan, store)
    waiting: list[Point] = []
    reported: Counter[str] = Counter()  # scores of val, by variant
    while True:
        while len(waiting) < queued and (point := scheduler.queue()) is not None:
            waiting.append(point)
        if not waiting:
            break
        waiting.sort(key=scheduler.urgency)
        before = len(seen)
        trunk = scheduler.begin(waiting.pop(0))
        if trunk is None:
            continue
        assert seen[before:] in ([], [(trunk.variant, reported[trunk.variant])])
        epoch = scheduler.epochs_reported(trunk)
        while True:
            report = farm.step(trunk, epoch)
            goes_on, epoch = scheduler.report(trunk, report), epoch + 1
            reported[trunk.variant] += bool(report.val)
            if not goes_on:
                break
    assert scheduler.is_over and len(seen) == plan.trunks
    assert max(known for _, known in seen) > plan.samples


def test_no_more_trials_are_queued_than_could_start(plan: Plan, tmp_path: Path) -> None:
    scheduler = TrunkScheduler(plan, Store(tmp_path), Events())
    points = []
    while (point := scheduler.queue()) is not None:
        points.append(point)
    assert Counter(points) == dict.fromkeys(plan.points, plan.samples)
    assert points == points[: len(plan.points)] * plan.samples, "in rounds"


def test_states_that_are_of_no_use_are_dropped_at_once(tmp_path: Path) -> None:
    axes: dict[str, Any] = {"variants": ("b0",), "train_res": (64,)}
    plan = plan_of(spec_with(SMALL_SPEC, **axes, samples=12, reduction=3))
    most = most_waiting(rungs=2, reduction=3, trunks=12)
    store = Store(tmp_path)
    scheduler, farm = TrunkScheduler(plan, store, Events()), Farm(plan, store)
    kept = []
    while (trunk := next_trunk(scheduler)) is not None:
        epoch = scheduler.epochs_reported(trunk)
        while scheduler.report(trunk, farm.step(trunk, epoch)):
            epoch += 1
        kept.append(len(list(store.root.rglob("state.pt"))))
    assert max(kept) <= most < plan.trunks and kept[-1] == 0


@pytest.mark.parametrize("damage", ["gone", "spoilt"])
def test_a_trunk_that_waits_and_whose_state_is_lost_is_trained_to_its_rung_again(
    tmp_path: Path, damage: str
) -> None:
    plan = plan_of(spec_with(SMALL_SPEC, variants=("b0",), train_res=(64,), samples=7))
    calm, store, *_ = phase(plan, tmp_path / "calm")
    expected = outcome(calm, store)
    found = 0
    for at in range(5, 60, 5):
        root = tmp_path / str(at)
        if not killed_at(plan, root, at):
            break
        for path in root.rglob("state.pt"):
            path.unlink() if damage == "gone" else path.write_bytes(b"spoilt")
            found += 1
        repaired = with_repairs(partial(phase, plan, root), Store(root), lambda _: None)
        found_again = outcome(*repaired[:2])
        for what in ("results", "survivors", "over", "open"):
            assert found_again[what] == expected[what]
    assert found > 5


# --- a sweep that 0.1.0 began -------------------------------------------------------------------


def test_a_sweep_of_0_1_0_is_continued(plan: Plan, tmp_path: Path) -> None:
    """It had trunks by their index in the order of the options, and cut at rungs for good."""
    store, farm = Store(tmp_path), Farm(plan, Store(tmp_path))
    trunks = []
    for index, point in enumerate((*plan.points, *plan.points)):
        hyper = Hyper(lr=1e-3 * (1 + index), weight_decay=0.01, label_smoothing=0.1)
        trunks.append(trunk := plan.trunk(point, hyper))
        ask = {"event": "ask", "index": index, "trunk": trunk.key, "hyper": hyper}
        append_line(store.journal, ask)
        decision = {"event": "rung", "group": point.variant, "trunk": trunk.key}
        for epoch in range(1, 7):
            value = farm.step(trunk, epoch - 1).best_val
            goes_on = index != 1 and (index != 2 or epoch < 2)
            if epoch in (1, 2, 4) and value is not None:
                line = {**decision, "epoch": epoch, "top1": value.top1, "goes_on": goes_on}
                append_line(store.journal, line)
            if not goes_on:
                append_line(store.journal, {"event": "end", "trunk": trunk.key, "why": "cut"})
                break
            if index == 3 and epoch == 2:
                break  # the driver was killed
            if epoch == 6:
                append_line(store.journal, {"event": "end", "trunk": trunk.key, "why": "finished"})
    before = Counter(farm.trained)
    events = Events()
    scheduler = TrunkScheduler(plan, store, events)
    assert [e.trunk.key for e in events if isinstance(e, TrunkEnded)] == [
        trunk.key for index, trunk in enumerate(trunks) if index != 3
    ]
    farm.run(scheduler)
    assert scheduler.is_over and set(farm.trained.values()) == {1}
    assert {t.key for t in trunks[1:3]} == {
        key
        for key, (why, epochs) in outcome(scheduler, store)["results"].items()
        if why == "cut" and key in {t.key for t in trunks}
    }
    anew = {key for key, _ in farm.trained - before}
    assert len(anew - {trunks[3].key}) == len(plan.points), "the third samples, no more"
    whole = [line for line in read_lines(store.journal) if line["event"] == "ask"]
    assert len(whole) == plan.trunks
    assert TrunkScheduler(plan, store, Events()).is_over


def test_survivors_are_those_that_came_farthest_then_did_best(tmp_path: Path) -> None:
    for survivors in (1, 2, 9):
        plan = plan_of(spec_with(SMALL_SPEC, survivors=survivors))
        scheduler, store, _, events = phase(plan, tmp_path / str(survivors))
        trunks = [e.trunk for e in events if isinstance(e, TrunkBegan) and not e.after]

        def merit(trunk: TrunkSpec, store: Store[Path] = store) -> tuple[int, int]:
            last = [r for r in recorded_reports(store, trunk.key) if r.val][-1]
            return last.epoch, max(s.hits1 for s in last.val.values())

        expected = []
        for point in plan.points:
            own = [t for t in trunks if point_of(t) == point]  # of equal ones the first stays first
            expected += sorted(own, key=merit, reverse=True)[:survivors]
        assert [merit(t) for t in scheduler.survivors()] == [merit(t) for t in expected]
        assert {t.key for t in scheduler.survivors()} == {t.key for t in expected}


# --- disturbed --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_worker_that_starts_over_changes_nothing(plan: Plan, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    calm, store, *_ = phase(plan, tmp_path / "calm")
    shaken = phase(plan, tmp_path / "shaken", restarts=0.2, rng=rng)
    assert set(shaken[2].trained.values()) == {1}
    assert outcome(shaken[0], shaken[1]) == outcome(calm, store)


class Fuse:
    """Kills the driver before its n-th touch of the store."""

    def __init__(self, at: int):
        self.left = at

    def wrap(self, touch: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return touch(*args, **kwargs)

        return fused


def killed_at(plan: Plan, root: Path, at: int, training: Training = report_of, **how: Any) -> bool:
    """Run the phase into the kill; whether it came to it."""
    store, fuse, unlink = Store(root), Fuse(at), Path.unlink
    farm = Farm(plan, store, training)
    fused_unlink = fuse.wrap(unlink)

    def unlink_state(path: Path, missing_ok: bool = False) -> None:
        (fused_unlink if path.name == "state.pt" else unlink)(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fenced_log, "append_bytes", fuse.wrap(append_bytes))  # to the journal
        for name in ("write_tensors", "write_json"):  # within ``finalize_trunk``
            patch.setattr(trunk, name, fuse.wrap(getattr(trunk, name)))
        patch.setattr(Path, "unlink", unlink_state)
        patch.setattr(farm, "step", fuse.wrap(farm.step))
        try:
            farm.run(TrunkScheduler(plan, store, Events()), **how)
        except Killed:
            return True
    return False


def test_killed_anywhere_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    plan = plan_of(spec_with(SMALL_SPEC, variants=("b0",), train_res=(64,), epochs=4, samples=7))
    calm, store, *_ = phase(plan, tmp_path / "calm", diverging)
    expected = outcome(calm, store)
    whys = {why for why, _ in expected["results"].values()}
    assert whys == {"finished", "cut", "diverged"}
    at = 0
    while killed_at(plan, root := tmp_path / str(at), at, diverging):
        scheduler, store, _, events = phase(plan, root, diverging)
        assert outcome(scheduler, store) == expected, f"killed at {at}"
        ends = Counter(e.trunk.key for e in events if isinstance(e, TrunkEnded))
        assert ends == Counter(expected["results"].keys()), "every trunk ends once"
        at += 1
    assert at > 40


@pytest.mark.parametrize("seed", range(12))
def test_killed_again_and_again_with_several_at_a_time(
    plan: Plan, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    how: dict[str, Any] = {"concurrency": rng.randint(2, 4), "rng": rng}
    while killed_at(plan, tmp_path, rng.randint(10, 60), **how):
        pass
    decided = [line for line in read_lines(Store(tmp_path).journal) if line["event"] == "rung"]
    assert len({(line["trunk"], line["epoch"]) for line in decided}) == len(decided)
    scheduler, store, farm, _ = phase(plan, tmp_path)
    assert not farm.trained
    journal = read_lines(store.journal)
    ended = Counter(line["trunk"] for line in journal if line["event"] == "end")
    assert len(ended) == plan.trunks and set(ended.values()) == {1}
    assert scheduler.is_over and len(scheduler.survivors()) == len(plan.points)


@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_a_journal_cut_within_a_line_is_taken_up_to_it(
    plan: Plan, tmp_path: Path, kept: float
) -> None:
    calm, store, *_ = phase(plan, tmp_path / "calm")
    expected = outcome(calm, store)
    for at in (3, 20, 41):
        root = tmp_path / str(at)
        assert killed_at(plan, root, at)
        journal = Store(root).journal
        *whole, last = journal.read_text().splitlines(keepends=True)
        length = int(kept * len(last)) if 0 < kept < 1 else int(kept) % len(last)
        journal.write_text("".join(whole) + last[:length])
        scheduler, store, *_ = phase(plan, root)
        assert outcome(scheduler, store) == expected


def test_a_finished_phase_is_over_at_once_and_its_ends_come_again(
    plan: Plan, tmp_path: Path
) -> None:
    scheduler, store, _, events = phase(plan, tmp_path)
    before = store.journal.read_bytes()
    again = Events()
    late = TrunkScheduler(plan, store, again)
    assert late.is_over and next_trunk(late) is None
    assert [t.key for t in late.survivors()] == [t.key for t in scheduler.survivors()]
    ends = [e for e in events if isinstance(e, TrunkEnded)]
    assert list(again) == ends
    assert store.journal.read_bytes() == before


# --- trunks that come to nothing --------------------------------------------------------------


def test_a_diverged_trunk_ends_itself_and_not_the_phase(plan: Plan, tmp_path: Path) -> None:
    scheduler, store, farm, events = phase(plan, tmp_path, diverging)
    check_whole(plan, scheduler, store, farm, events)
    lost = [e for e in events if isinstance(e, TrunkEnded) and e.status == "diverged"]
    assert lost
    assert all(e.reports[-1].epoch == 2 and e.reports[-1].diverged for e in lost)
    assert not {e.trunk.key for e in lost} & {t.key for t in scheduler.survivors()}
    lost_epochs = [e for e in events if isinstance(e, EpochEnded) and e.report.diverged]
    assert lost_epochs and not any(e.should_continue for e in lost_epochs)


def test_points_where_all_diverged_have_no_survivor(plan: Plan, tmp_path: Path) -> None:
    def all_lost(plan: Plan, trunk: TrunkSpec, epoch: int) -> EpochReport:
        report = report_of(plan, trunk, epoch)
        if trunk.variant == "b0":
            return EpochReport(**{**vars(report), "loss": None, "val": {}, "diverged": True})
        return report

    scheduler, *_ = phase(plan, tmp_path, all_lost)
    assert scheduler.is_over
    assert {t.variant for t in scheduler.survivors()} == {"b1"}


def test_a_failed_trunk_is_left_out_and_tried_again_by_the_next_start(
    plan: Plan, tmp_path: Path
) -> None:
    store, events = Store(tmp_path), Events()
    scheduler, farm = TrunkScheduler(plan, store, events), Farm(plan, store)
    trunk = next_trunk(scheduler)
    assert trunk is not None
    scheduler.report(trunk, farm.step(trunk, 0))
    scheduler.failed(trunk, "Traceback: no memory")
    scheduler.failed(trunk, "a second time")
    assert not scheduler.report(trunk, report_of(plan, trunk, 2))
    farm.run(scheduler)
    ends = [e for e in events if isinstance(e, TrunkEnded)]
    assert len(ends) == plan.trunks and ends[0].status == "failed"
    assert [r.epoch for r in ends[0].reports] == [1]
    assert ends[0].error == "Traceback: no memory"
    assert (store.trunk(trunk.key) / "error.txt").read_text() == ends[0].error
    assert trunk.key not in {t.key for t in scheduler.survivors()}


def test_the_next_start_tries_a_failed_trunk_again_before_all_else(
    plan: Plan, tmp_path: Path
) -> None:
    store, events = Store(tmp_path), Events()
    scheduler, farm = TrunkScheduler(plan, store, events), Farm(plan, store)
    trunk = next_trunk(scheduler)
    assert trunk is not None
    scheduler.failed(trunk, "lost")
    farm.run(scheduler)
    assert scheduler.is_over
    late = TrunkScheduler(plan, store, Events())
    assert not late.is_over and next_trunk(late) == trunk
    last = TrunkScheduler(plan, store, Events())  # as that start was killed
    farm.run(last)
    assert last.is_over and farm.trained[trunk.key, 1] == 1
    assert TrunkScheduler(plan, store, Events()).is_over


def test_a_trial_that_takes_too_long_has_failed_and_the_next_start_goes_on_with_it(
    plan: Plan, tmp_path: Path
) -> None:
    bounded = replace(plan, spec=spec_with(plan.spec, max_minutes_per_trial=1.5))
    store, events = Store(tmp_path), Events()
    scheduler = TrunkScheduler(bounded, store, events)
    trunk = next_trunk(scheduler)
    assert trunk is not None and scheduler.allowance_s(trunk) == 90
    scheduler.stopped(trunk)
    (end,) = (e for e in events if isinstance(e, TrunkEnded))
    assert end.failure is not None
    assert end.failure.reason == "Its trial took longer than --max-minutes-per-trial 1.5."
    assert next_trunk(TrunkScheduler(plan, store, Events())) == trunk
    assert TrunkScheduler(plan, store, Events()).allowance_s(trunk) is None


@pytest.mark.parametrize("seed", range(8))
def test_whatever_fails_is_made_in_the_end(plan: Plan, tmp_path: Path, seed: int) -> None:
    """Starts in which trunks fail at random, then one without a fault."""
    rng, store = random.Random(seed), Store(tmp_path)
    for _ in range(3):
        scheduler, farm = TrunkScheduler(plan, store, Events()), Farm(plan, store)
        while (trunk := next_trunk(scheduler)) is not None:
            done = scheduler.epochs_reported(trunk)
            while True:
                if rng.random() < 0.2:
                    scheduler.failed(trunk, "lost")
                    break
                if not scheduler.report(trunk, farm.step(trunk, done)):
                    break
                done += 1
    events = Events()
    scheduler, farm = TrunkScheduler(plan, store, events), Farm(plan, store)
    farm.run(scheduler)
    assert scheduler.is_over
    ends = {e.trunk.key: e for e in events if isinstance(e, TrunkEnded)}
    assert len(ends) == plan.trunks and not any(end.failure for end in ends.values())
    finished = [e.trunk for e in ends.values() if e.status == "finished"]
    assert {point_of(trunk) for trunk in finished} == set(plan.points)


# --- ranges of one value ----------------------------------------------------------------------

SINGLE: SweepSpec = spec_with(
    SMALL_SPEC, lr=(1e-3, 1e-3), weight_decay=(0.01, 0.01), label_smoothing=(0.1, 0.1)
)


@pytest.mark.parametrize("concurrency", [1, 3, 9])
def test_equal_proposals_are_one_trunk(tmp_path: Path, concurrency: int) -> None:
    plan = plan_of(SINGLE)
    scheduler, store, farm, events = phase(plan, tmp_path, concurrency=concurrency)
    began = [e.trunk for e in events if isinstance(e, TrunkBegan)]
    assert Counter(map(point_of, began)) == dict.fromkeys(plan.points, 1)
    assert set(farm.trained.values()) == {1}
    assert scheduler.is_over and next_trunk(scheduler) is None
    assert len(scheduler.survivors()) == len(plan.points)
    assert TrunkScheduler(plan, store, Events()).is_over


def test_not_over_while_a_trunk_runs_or_is_yet_to_be_proposed(tmp_path: Path) -> None:
    plan = plan_of(spec_with(SMALL_SPEC, variants=("b0",), train_res=(64,), samples=2))
    assert plan.points == (Point(variant="b0", train_res=64),)
    scheduler = TrunkScheduler(plan, Store(tmp_path), Events())
    farm = Farm(plan, Store(tmp_path))
    for _ in range(2):
        assert not scheduler.is_over
        trunk = next_trunk(scheduler)
        assert trunk is not None and not scheduler.is_over
        epoch = 0
        while scheduler.report(trunk, farm.step(trunk, epoch)):
            assert not scheduler.is_over
            epoch += 1
    while not scheduler.is_over:
        trunk = next_trunk(scheduler)
        assert trunk is not None
        epoch = scheduler.epochs_reported(trunk)
        while scheduler.report(trunk, farm.step(trunk, epoch)):
            epoch += 1
    assert next_trunk(scheduler) is None
