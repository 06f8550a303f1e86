"""Held-out sets are read for the chosen arm, and for the same trunk untuned."""

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
from sweeps.final_model.outcome import Outcome, ServedModel, served_as_swept
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from tests.factories import HYPER, a_row, plan_of, predictions_of, spec_with
from trainables.evaluation.calibration import fit_temperature
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult, CellSpec
from trainables.fixres.held_out_score import Reading
from trainables.fixres.predictions import Predictions
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors

PLAN = plan_of(spec_with(train_res=(64,), test_res=(96,), also_test=("v2=/a", "sketch=/b")))
IMAGES: Any = SimpleNamespace(
    classes=("a", "b"), digest="d1", split=lambda name: f"images of {name}", whites={}
)
NAMES = ("test", "v2", "sketch")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    trunk = PLAN.trunk(PLAN.points[0], HYPER)
    write_json(store.trunk(trunk.key) / "spec.json", trunk)
    write_tensors(store.trunk(trunk.key) / "trunk.safetensors", {})
    return store


class Readings:
    """Stands for what is read, and for where its results are kept."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.results: dict[tuple[str, str], ArmResult] = {}
        self.made: list[Reading] = []
        self.looks: list[tuple[str, tuple[str, ...]]] = []
        self.loaded: list[str] = []
        self.test = predictions_of("test", 100)
        for name, stand_in in {
            "open_extra_test_set": self.open,
            "record_looks": lambda one, _store, _cell, arms: self.looks.append((one.name, arms)),
            "recorded_on": lambda one, _store, _cell, arms: self.recorded(one.name, arms),
            "recorded_on_val": lambda _digest, _store, _cell, arms: self.recorded("val", arms),
            "adapted_state": lambda _store, _trunk, _cell, arm: self.loaded.append(arm),
            "held_out_hits": lambda _one, _store, _cell, arm: self.hits(arm),
            "held_out_predictions": lambda one, _store, _cell, _arm: self.test,
        }.items():
            patch.setattr(held_out, name, stand_in)

    def open(self, name: str, folder: Path, *_: Any, whites: Any) -> Any:
        return SimpleNamespace(name=name, images=name, digest=f"of {name}", present=(1,))

    def recorded(self, name: str, arms: Sequence[str]) -> dict[str, ArmResult]:
        return {arm: self.results[name, arm] for arm in arms if (name, arm) in self.results}

    def hits(self, arm: str) -> np.ndarray:
        return np.arange(10) < (3 if arm == "none" else 7)

    def read_all(self, readings: Sequence[Reading]) -> None:
        self.made += readings
        for reading in readings:
            for arm in reading.arms:
                score = Score(split=reading.name, n=10, hits1=int(self.hits(arm).sum()), hits5=9)
                self.results[reading.name, arm] = ArmResult(arm=arm, score=score, seconds=0.5)

    def score(self, served: ServedModel, row: Row, store: Store) -> Outcome:
        choice = Choice(row=row, reason="It is the best.", optimism=0.0)
        return held_out.score_choice(
            PLAN, choice, served, [row], IMAGES, store, self.read_all, lambda *_: None
        )


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    val = predictions_of("val", 200)
    monkeypatch.setattr(held_out, "recorded_predictions", lambda *_: val)
    return Readings(monkeypatch)


def chosen_row(arm: str = "fix") -> Row:
    trunk = PLAN.trunk(PLAN.points[0], HYPER)
    return a_row(trunk=trunk.key, arm=arm, variant=trunk.variant, train_res=64, test_res=96)


@pytest.mark.parametrize(
    ("arm", "arms"),
    [("fix", ("fix", "none")), ("bn", ("bn", "none")), ("none", ("none",))],
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
    del readings.results["v2", "none"]
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
    plan = plan_of(spec_with(PLAN.spec, weights="auto"), weights=True)
    assert plan.has_untouched
    arms = {
        trunk.is_untouched: held_out._arms_to_read(
            plan,
            SimpleNamespace(arm="fix", cell=SimpleNamespace(trunk=trunk)),  # type: ignore[arg-type]
        )
        for trunk in (plan.untouched()[0], plan.trunk(plan.points[0], HYPER))
    }
    assert arms == {True: ("fix",), False: ("fix", "none")}
