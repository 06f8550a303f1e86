"""Held-out sets are read for the chosen arm, the same trunk untuned, and the net untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweeps.final_model import held_out
from sweeps.final_model.calibration import calibrate
from sweeps.final_model.outcome import Outcome, ServedModel, paired_gain, served_as_swept
from sweeps.planning.plan import Plan
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from tests.factories import HYPER, a_row, plan_of, predictions_of, spec_with
from trainables.evaluation.calibration import fit_temperature
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult, CellSpec, delta_path
from trainables.fixres.held_out_score import Reading
from trainables.fixres.predictions import Predictions
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors

PLAN = plan_of(spec_with(train_res=(64,), test_res=(96,), also_test=("v2=/a", "sketch=/b")))
WITH_UNTOUCHED = plan_of(spec_with(PLAN.spec, test_res=(96, 128), weights="auto"), weights=True)
IMAGES: Any = SimpleNamespace(
    classes=("a", "b"), digest="d1", split=lambda name: f"images of {name}", whites={}
)
NAMES = ("test", "v2", "sketch")


def untouched_row(hits: int, test_res: int) -> Row:
    trunk = WITH_UNTOUCHED.untouched()[0]
    cell = WITH_UNTOUCHED.cell(trunk, 0, test_res, 1.0)
    return a_row(
        hits,
        untouched=True,
        variant=cell.variant,
        train_res=trunk.train_res,
        test_res=test_res,
        trunk=trunk.key,
        cell=cell.key,
        trunk_epochs=0,
    )


UNTOUCHED = [untouched_row(10, 96), untouched_row(20, 128)]  # the second is better on val


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    trained = [plan.trunk(plan.points[0], HYPER) for plan in (PLAN, WITH_UNTOUCHED)]
    for trunk in (*trained, *WITH_UNTOUCHED.untouched()):
        write_json(store.trunk(trunk.key) / "spec.json", trunk)
        write_tensors(store.trunk(trunk.key) / "trunk.safetensors", {})
    for row in UNTOUCHED:
        write_tensors(delta_path(store, row.cell, row.arm), {})
    return store


class Readings:
    """Stands for what is read, and for where its results are kept."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.results: dict[tuple[str, str, str], ArmResult] = {}  # by set, cell and arm
        self.made: list[Reading] = []
        self.looks: list[tuple[str, tuple[str, ...]]] = []
        self.baselines: list[tuple[str, str]] = []  # sets and cells that were looked at as such
        self.loaded: list[str] = []
        self.test = predictions_of("test", 100)
        for name, stand_in in {
            "open_extra_test_set": self.open,
            "record_looks": self.look,
            "recorded_on": lambda one, _store, cell, arms: self.recorded(one.name, cell, arms),
            "recorded_on_val": lambda _, _store, cell, arms: self.recorded("val", cell, arms),
            "adapted_state": lambda _store, _trunk, _cell, arm: self.loaded.append(arm),
            "held_out_hits": lambda _one, _store, cell, arm: self.hits(cell, arm),
            "held_out_predictions": lambda one, _store, _cell, _arm: self.test,
        }.items():
            patch.setattr(held_out, name, stand_in)

    def open(self, name: str, folder: Path, *_: Any, whites: Any) -> Any:
        return SimpleNamespace(name=name, images=name, digest=f"of {name}", present=(1,))

    def look(
        self, one: Any, _: Store, cell: CellSpec, arms: tuple[str, ...], *, baseline: bool
    ) -> None:
        if baseline:
            self.baselines.append((one.name, cell.key))
        else:
            self.looks.append((one.name, arms))

    def recorded(self, name: str, cell: CellSpec, arms: Sequence[str]) -> dict[str, ArmResult]:
        found = {arm: self.results.get((name, cell.key, arm)) for arm in arms}
        return {arm: result for arm, result in found.items() if result is not None}

    def hits(self, cell: CellSpec, arm: str) -> np.ndarray:
        untouched = cell.key in {row.cell for row in UNTOUCHED}
        return np.arange(10) < (5 if untouched else 3 if arm == "none" else 7)

    def read_all(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            self.made.append(reading)
            for arm in reading.arms:
                hits = int(self.hits(reading.cell, arm).sum())
                score = Score(split=reading.name, n=10, hits1=hits, hits5=9)
                key = (reading.name, reading.cell.key, arm)
                self.results[key] = ArmResult(arm=arm, score=score, seconds=0.5)

    def score(
        self,
        served: ServedModel,
        row: Row,
        store: Store,
        plan: Plan = PLAN,
        others: Sequence[Row] = (),
    ) -> Outcome:
        choice = Choice(row=row, reason="It is the best.", optimism=0.0)
        return held_out.score_choice(
            plan, choice, served, [row, *others], IMAGES, store, self.read_all, lambda *_: None
        )


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    val = predictions_of("val", 200)
    monkeypatch.setattr(held_out, "recorded_predictions", lambda *_: val)
    return Readings(monkeypatch)


def chosen_row(arm: str = "fix", plan: Plan = PLAN) -> Row:
    trunk = plan.trunk(plan.points[0], HYPER)
    cell = plan.cell(trunk, 6, 96, 1.0).key
    return a_row(
        trunk=trunk.key, cell=cell, arm=arm, variant=trunk.variant, train_res=64, test_res=96
    )


@pytest.mark.parametrize(
    ("arm", "arms"),
    [
        ("fix", ("fix", "none")),
        ("bn", ("bn", "none")),
        ("none_flip", ("none_flip", "none")),
        ("none", ("none",)),
    ],
)
def test_each_set_is_read_once_for_the_chosen_arm_and_untuned(
    arm: str, arms: tuple[str, ...], store: Store, readings: Readings
) -> None:
    row = chosen_row(arm)
    served = served_as_swept(PLAN, row, store)
    outcome = readings.score(served, row, store)
    wanted = {
        "test": ("d1 test", None),
        "v2": ("of v2", Path("/a")),
        "sketch": ("of sketch", Path("/b")),
        "val": ("d1", None),
    }
    assert {r.name: (r.digest, r.data) for r in readings.made} == wanted
    assert len(readings.made) == 4
    assert {(r.cell, r.arms) for r in readings.made} == {(served.cell.spec, arms)}
    assert readings.looks == [(name, arms) for name in NAMES]  # val is no held-out set
    assert tuple(readings.loaded) == arms  # what is damaged is found before
    rows = outcome.rows[1:]
    assert [(r.split, r.arm) for r in rows] == [(name, a) for name in NAMES for a in arms]
    assert {(r.arm, r.train_res, r.test_res, r.n, r.top1, r.top5) for r in rows} == {
        (a, 64, 96, 10, 0.3 if a == "none" else 0.7, 0.9) for a in arms
    }
    assert set(outcome.gains) == (set(NAMES) if len(arms) > 1 else set())
    assert all(gain.difference == 0.4 for gain in outcome.gains.values())


def test_only_what_the_store_lacks_is_read(store: Store, readings: Readings) -> None:
    row = chosen_row()
    served = served_as_swept(PLAN, row, store)
    first = readings.score(served, row, store)
    readings.made.clear()
    readings.loaded.clear()
    again = readings.score(served, row, store)
    assert not readings.made and not readings.loaded
    assert (again.rows, again.gains) == (first.rows, first.gains)
    del readings.results["v2", served.cell.key, "none"]
    readings.score(served, row, store)
    assert [r.name for r in readings.made] == ["v2"]


@pytest.mark.parametrize("refit", [False, True])
def test_the_temperature_is_of_the_chosen_row_on_val_whatever_is_served(
    refit: bool, store: Store, readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    val, row = predictions_of("val", 200), chosen_row()
    served = replace(served_as_swept(PLAN, row, store), refit=refit)
    if refit:
        served = replace(served, cell=replace(served.cell, spec=replace(served.cell.spec, seed=9)))

    def of_test(one: Any, _store: Store, cell: CellSpec, arm: str) -> Predictions:
        assert (one.name, one.images) == ("test", "images of test")
        return {(served.cell.key, "fix"): readings.test}[cell.key, arm]

    monkeypatch.setattr(
        held_out, "recorded_predictions", lambda _, cell, arm: {(row.cell, "fix"): val}[cell, arm]
    )
    monkeypatch.setattr(held_out, "held_out_predictions", of_test)
    outcome = readings.score(served, row, store)
    read_again = {arm: score.hits1 for arm, score in outcome.val_as_served.items()}
    assert read_again == ({} if refit else {"fix": 7, "none": 3})  # a refit was trained on val
    assert ("val" in {r.name for r in readings.made}) == (not refit)
    assert outcome.predictions == (val, readings.test)
    assert outcome.calibration == calibrate([val, readings.test], refit=refit)
    assert val.logits is not None
    assert outcome.temperature == fit_temperature(val.logits, val.labels)


def test_an_untouched_net_is_read_with_its_fitted_classifier_alone() -> None:
    """What came with its weights knows other classes."""
    plan = WITH_UNTOUCHED
    assert plan.has_untouched
    arms = {
        trunk.is_untouched: held_out._arms_to_read(
            plan,
            SimpleNamespace(arm="fix", cell=SimpleNamespace(trunk=trunk)),  # type: ignore[arg-type]
        )
        for trunk in (plan.untouched()[0], plan.trunk(plan.points[0], HYPER))
    }
    assert arms == {True: ("fix",), False: ("fix", "none")}


def scored_beside_untouched(
    readings: Readings, store: Store, arm: str = "fix", *, refit: bool = False
) -> Outcome:
    row = chosen_row(arm, WITH_UNTOUCHED)
    served = replace(served_as_swept(WITH_UNTOUCHED, row, store), refit=refit)
    return readings.score(served, row, store, WITH_UNTOUCHED, UNTOUCHED)


@pytest.mark.parametrize("arm", ["fix", "none"])
def test_each_set_is_read_for_the_best_untouched_row_too_at_its_own_resolution(
    arm: str, store: Store, readings: Readings
) -> None:
    outcome = scored_beside_untouched(readings, store, arm)
    best = UNTOUCHED[1]
    own = [r for r in readings.made if r.baseline]
    assert {(r.cell.key, r.cell.test_res, r.arms) for r in own} == {(best.cell, 128, ("fix",))}
    assert [r.name for r in own] == list(NAMES)  # val has told the difference before
    assert readings.baselines == [(name, best.cell) for name in NAMES]
    cell = WITH_UNTOUCHED.cell(WITH_UNTOUCHED.untouched()[0], 0, 128, 1.0).spec
    chosen = WITH_UNTOUCHED.cell(WITH_UNTOUCHED.trunk(WITH_UNTOUCHED.points[0], HYPER), 6, 96, 1.0)
    gain = paired_gain(readings.hits(chosen.spec, arm), readings.hits(cell, "fix"))
    assert gain.difference == pytest.approx(0.2 if arm == "fix" else -0.2)
    assert outcome.gains_on_untouched == dict.fromkeys(NAMES, gain)
    assert set(outcome.gains) == (set(NAMES) if arm == "fix" else set())


def test_what_the_untouched_net_has_there_is_none_of_the_chosen_nets(
    store: Store, readings: Readings
) -> None:
    """Both have the arm fix."""
    outcome = scored_beside_untouched(readings, store)
    rows = [row for row in outcome.rows if row.split != "val"]
    assert {row.cell for row in rows} == {outcome.choice.row.cell}
    assert [(r.split, r.arm) for r in rows] == [(n, a) for n in NAMES for a in ("fix", "none")]
    assert outcome.test.top1 == 0.7
    assert outcome.read_s == 9 * 0.5  # its time is counted all the same


def test_a_sweep_that_was_killed_between_readings_reads_no_set_twice(
    store: Store, readings: Readings
) -> None:
    whole = scored_beside_untouched(readings, store)
    for key in [("v2", UNTOUCHED[1].cell, "fix"), ("sketch", whole.choice.row.cell, "none")]:
        del readings.results[key]
    readings.made.clear()
    again = scored_beside_untouched(readings, store)
    assert [(r.name, r.baseline) for r in readings.made] == [("sketch", False), ("v2", True)]
    assert again == whole


@pytest.mark.parametrize("left", [(), ("test",)])
def test_an_untouched_net_whose_checkpoints_are_gone_is_told_where_it_was_read(
    left: tuple[str, ...], store: Store, readings: Readings, caplog: pytest.LogCaptureFixture
) -> None:
    whole = scored_beside_untouched(readings, store)
    for name in set(NAMES) - set(left):
        del readings.results[name, UNTOUCHED[1].cell, "fix"]
    delta_path(store, UNTOUCHED[1].cell, "fix").unlink()
    readings.made.clear()
    readings.baselines.clear()
    again = scored_beside_untouched(readings, store)
    assert not readings.made and {name for name, _ in readings.baselines} == set(left)
    assert again.gains_on_untouched == {name: whole.gains_on_untouched[name] for name in left}
    lost = [name for name in NAMES if name not in left]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == (
        [", ".join(lost)] if lost else []
    )
    assert (again.rows, again.gains) == (whole.rows, whole.gains)


def test_neither_a_refit_nor_an_untouched_choice_is_compared_with_the_untouched_net(
    store: Store, readings: Readings
) -> None:
    refitted = scored_beside_untouched(readings, store, refit=True)
    assert refitted.gains and not refitted.gains_on_untouched
    row = UNTOUCHED[1]
    served = served_as_swept(WITH_UNTOUCHED, row, store)
    trained = chosen_row(plan=WITH_UNTOUCHED)
    outcome = readings.score(served, row, store, WITH_UNTOUCHED, [trained, UNTOUCHED[0]])
    assert not outcome.gains_on_untouched
    assert not any(reading.baseline for reading in readings.made) and not readings.baselines
