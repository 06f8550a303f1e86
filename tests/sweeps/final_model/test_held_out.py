"""Held-out sets are read for the chosen arm, and for the same trunk untuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweeps.final_model import held_out
from sweeps.final_model.calibration import calibrate
from sweeps.final_model.outcome import served_as_swept
from sweeps.selection.choice import Choice
from tests.factories import HYPER, a_row, plan_of, predictions_of, spec_with
from trainables.evaluation.calibration import fit_temperature
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult
from trainables.fixres.predictions import Predictions
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors

PLAN = plan_of(spec_with(train_res=(64,), test_res=(96,), also_test=("v2=/a", "sketch=/b")))
VIEW_CACHE: Any = SimpleNamespace(
    images=SimpleNamespace(
        classes=("a", "b"), digest="d1", split=lambda name: f"images of {name}", whites={}
    ),
    cache=Path("/cache"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    trunk = PLAN.trunk(PLAN.points[0], HYPER)
    write_json(store.trunk(trunk.key) / "spec.json", trunk)
    write_tensors(store.trunk(trunk.key) / "trunk.safetensors", {})
    return store


@pytest.mark.parametrize(
    ("arm", "arms"),
    [("fix", ["fix", "none"]), ("bn", ["bn", "none"]), ("none", ["none"])],
)
def test_each_set_is_read_for_the_chosen_arm_and_untuned(
    arm: str, arms: list[str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, read = [], []

    def opening(name: str, folder: Path, *rest: Any, whites: Any) -> Any:
        opened.append((name, folder))
        return SimpleNamespace(name=name, images=name, digest=f"of {name}", present=(1,))

    def reading(one: Any, _store: Store, cell: Any, name: str, view_cache: Any) -> ArmResult:
        read.append((one.name, one.digest, one.present, name, cell.test_res))
        return ArmResult(arm=name, score=Score(split=one.name, n=10, hits1=7, hits5=9), seconds=0.5)

    monkeypatch.setattr(held_out, "open_extra_test_set", opening)

    def hits(_one: Any, _store: Store, _cell: Any, name: str) -> np.ndarray:
        return np.arange(10) < (3 if name == "none" else 7)

    monkeypatch.setattr(held_out, "score_held_out", reading)
    monkeypatch.setattr(held_out, "held_out_hits", hits)
    trunk = PLAN.trunk(PLAN.points[0], HYPER)
    chosen = a_row(trunk=trunk.key, arm=arm, variant=trunk.variant)
    served_model = served_as_swept(PLAN, chosen, store)
    rows, gains = held_out.score_held_out_sets(
        PLAN, served_model, store, VIEW_CACHE, lambda *_: None
    )
    assert opened == [("v2", Path("/a")), ("sketch", Path("/b"))]
    sets = {"test": ("d1 test", (0, 1)), "v2": ("of v2", (1,)), "sketch": ("of sketch", (1,))}
    assert read == [(name, *sets[name], a, 96) for name in sets for a in arms]
    assert [(r.split, r.arm) for r in rows] == [(name, a) for name in sets for a in arms]
    assert {(r.train_res, r.test_res, r.n, r.top1, r.top5) for r in rows} == {
        (64, 96, 10, 0.7, 0.9)
    }
    assert set(gains) == (set(sets) if len(arms) > 1 else set())
    assert all(gain.difference == 0.4 for gain in gains.values())


@pytest.mark.parametrize("refit", [False, True])
def test_the_temperature_is_of_the_chosen_row_on_val_whatever_is_served(
    refit: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    val, test = predictions_of("val", 200), predictions_of("test", 100)
    trunk = PLAN.trunk(PLAN.points[0], HYPER)
    row = a_row(trunk=trunk.key, variant=trunk.variant, train_res=64, test_res=96)
    served = replace(served_as_swept(PLAN, row, store), refit=refit)
    if refit:
        served = replace(served, cell=replace(served.cell, spec=replace(served.cell.spec, seed=9)))

    def of_test(one: Any, _store: Store, cell: Any, arm: str) -> Predictions:
        assert (one.name, one.images) == ("test", "images of test")
        return {(served.cell.key, "fix"): test}[cell.key, arm]

    def as_served(_store: Store, cell: Any, arm: str, _views: Any) -> ArmResult:
        assert cell.key == served.cell.key
        hits = {"fix": 33, "none": 30}[arm]
        return ArmResult(arm=arm, score=Score(split="val", n=50, hits1=hits, hits5=50), seconds=1.0)

    monkeypatch.setattr(held_out, "score_held_out_sets", lambda *_: ([], {}))
    monkeypatch.setattr(held_out, "score_val_as_served", as_served)
    monkeypatch.setattr(
        held_out, "recorded_predictions", lambda _, cell, arm: {(row.cell, "fix"): val}[cell, arm]
    )
    monkeypatch.setattr(held_out, "held_out_predictions", of_test)
    choice = Choice(row=row, reason="It is the best.", optimism=0.0)
    outcome = held_out.score_choice(
        PLAN, choice, served, [row], VIEW_CACHE.images, store, lambda *_: None
    )
    read_again = {arm: score.hits1 for arm, score in outcome.val_as_served.items()}
    assert read_again == ({} if refit else {"fix": 33, "none": 30})  # a refit was trained on val
    assert outcome.predictions == (val, test)
    assert outcome.calibration == calibrate([val, test], refit=refit)
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
