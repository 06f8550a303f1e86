"""Held-out sets are scored once, among their own classes."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.adapted import count_images, net_with, pixels_of, served
from trainables.data.extra_test_sets import open_extra_test_set
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.evaluation.metrics import score
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.held_out_score import (
    HeldOutSet,
    Reading,
    cells_tested_on,
    held_out_predictions,
    recorded_on,
    recorded_on_val,
    score_held_out,
    score_reading,
    score_val_as_served,
)
from trainables.fixres.held_out_score import held_out_set as held_out_set_of
from trainables.models import backbone
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import read_lines


def held_out_set(made, split="test", name="test", present=(0, 1, 2)):
    images = made.views.images
    return HeldOutSet(
        name=name, images=images.split(split), digest=f"{images.digest} {split}", present=present
    )


def scored(held_out, made, arm):
    return score_held_out(held_out, made.store, made.cell, (arm,), made.views)[arm]


@pytest.fixture
def apart(made, tmp_path):
    """The same trunk and cell, without readings."""
    shutil.copytree(made.store.root, tmp_path / "store")
    (tmp_path / "store" / "readings.jsonl").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "store" / "readings", ignore_errors=True)
    return SimpleNamespace(store=Store(tmp_path / "store"), cell=made.cell, views=made.views)


@pytest.mark.parametrize("arm", ARMS)
def test_a_set_is_scored_once_for_each_arm(made, arm, monkeypatch):
    seen = count_images(monkeypatch)
    first = scored(held_out_set(made), made, arm)
    assert sum(seen) == 9 * ARMS[arm].passes
    assert scored(held_out_set(made), made, arm) == first
    assert sum(seen) == 9 * ARMS[arm].passes
    assert (first.arm, first.score.split, first.score.n) == (arm, "test", 9)
    if not ARMS[arm].plain:
        return
    x, y = pixels_of(made.views.images, "test")
    with torch.no_grad():
        net = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, arm))
        logits = served(net, arm)(x)
    assert first.score == score(logits, y, "test")
    kept = held_out_predictions(held_out_set(made), made.store, made.cell, arm)
    assert (kept.split, kept.labels.tolist()) == ("test", y.tolist())
    torch.testing.assert_close(torch.tensor(kept.logits), logits, rtol=1e-4, atol=1e-4)
    assert int((kept.predicted == kept.labels).sum()) == first.score.hits1


def test_the_pool_arm_is_scored_as_the_cell_scored_val(made):
    result = scored(held_out_set(made, "val", "again"), made, "pool")
    assert result.score == replace(made.results["pool"].score, split="again")


def test_a_set_of_fewer_classes_is_scored_among_its_own(made):
    """Restricting the classes can only help, and is the argmax over those that are there."""
    x, y = pixels_of(made.views.images, "val")
    with torch.no_grad():
        logits = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, "fix"))(x)
    hits = int((logits[:, [0, 2]].argmax(1) == y // 2)[y != 1].sum())
    result = scored(held_out_set(made, "val", "two", (0, 2)), made, "fix")
    # Images of the absent class are never hit: such a set would not hold any.
    assert result.score.hits1 == hits


def test_every_look_is_recorded_in_order(made):
    assert cells_tested_on(made.store, "looked") == []
    looked = held_out_set(made, name="looked")
    for arm in ("fix", "none", "fix"):
        scored(looked, made, arm)
    other = replace(made.cell, arms=("none",))
    score_held_out(looked, made.store, other, ("none",), made.views)
    assert cells_tested_on(made.store, "looked") == [made.cell.key, other.key]
    looks = [line["arm"] for line in read_lines(made.store.readings) if line["set"] == "looked"]
    assert looks == ["fix", "none", "none"]


def test_a_look_at_a_baseline_counts_once_it_is_a_choice(apart):
    """What was only compared with has not been chosen among."""
    test, cell, arms = held_out_set(apart), apart.cell, ("fix",)

    def look(baseline):
        score_held_out(test, apart.store, cell, arms, apart.views, baseline=baseline)
        return cells_tested_on(apart.store, "test")

    assert look(baseline=True) == [] and look(baseline=True) == []
    lines = read_lines(apart.store.readings)
    assert [(line["cell"], line["arm"], line["baseline"]) for line in lines] == [
        (cell.key, "fix", True)
    ]
    assert look(baseline=False) == [cell.key]
    assert look(baseline=True) == look(baseline=False) == [cell.key]
    assert ["baseline" in line for line in read_lines(apart.store.readings)] == [True, False]


@pytest.mark.parametrize("baseline", [False, True])
def test_a_reading_records_whether_it_is_of_a_baseline(apart, baseline):
    reading = Reading(cell=apart.cell, arms=("fix",), name="test", baseline=baseline)
    score_reading(reading, apart.store, apart.views, ReadOptions())
    assert cells_tested_on(apart.store, "test") == ([] if baseline else [apart.cell.key])


def test_a_look_is_recorded_before_it_is_taken(apart, monkeypatch):
    def broken(*_):
        raise DamagedFileError(Path("x"), "it is torn")

    monkeypatch.setattr("trainables.fixres.held_out_score.adapted_state", broken)
    with pytest.raises(DamagedFileError):
        scored(held_out_set(apart), apart, "fix")
    assert cells_tested_on(apart.store, "test") == [apart.cell.key]
    assert recorded_on(held_out_set(apart), apart.store, apart.cell, ("fix",)) == {}


def test_arms_that_are_read_together_pass_once_and_give_what_each_gives_alone(
    made, apart, monkeypatch
):
    """To the last bit: all that differs between them comes after what they share, images mirrored
    or not."""
    test, arms = held_out_set(apart), tuple(ARMS)
    seen = count_images(monkeypatch)
    together = score_held_out(test, apart.store, apart.cell, arms, apart.views)
    assert sum(seen) == 2 * 9 and list(together) == list(arms)
    val = score_val_as_served(apart.store, apart.cell, ("fix", "none"), apart.views)
    assert sum(seen) == 2 * 9 + 15 and [r.score.n for r in val.values()] == [15, 15]
    for arm in arms:
        alone = scored(held_out_set(made), made, arm)
        assert together[arm].score == alone.score
        found, wanted = (
            held_out_predictions(held_out_set(m), m.store, m.cell, arm) for m in (apart, made)
        )
        assert found.logits is not None and wanted.logits is not None
        assert np.array_equal(found.logits, wanted.logits)


def test_only_what_the_store_lacks_is_read(apart, monkeypatch):
    first = scored(held_out_set(apart), apart, "none")
    loaded = []

    def load(*key):
        loaded.append(key[-1])
        return adapted_state(*key)

    monkeypatch.setattr("trainables.fixres.held_out_score.adapted_state", load)
    both = score_held_out(
        held_out_set(apart), apart.store, apart.cell, ("fix", "none"), apart.views
    )
    assert loaded == ["fix"] and both["none"] == first and list(both) == ["fix", "none"]


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_reading_leaves_what_is_recorded(apart, name):
    reading = Reading(cell=apart.cell, arms=("fix", "none"), name=name)
    images = apart.views.images

    def recorded():
        if name == "val":
            return recorded_on_val(images.digest, apart.store, apart.cell, reading.arms)
        return recorded_on(held_out_set(apart), apart.store, apart.cell, reading.arms)

    assert recorded() == {}
    score_reading(reading, apart.store, apart.views, ReadOptions())
    assert {arm: r.score.split for arm, r in recorded().items()} == {"fix": name, "none": name}


def test_an_extra_test_set_is_decoded_where_it_is_read(apart, tmp_path):
    for label in apart.views.images.classes[:2]:
        (tmp_path / "extra" / label).mkdir(parents=True)
        noise = np.random.default_rng(3).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "extra" / label / "x.png")
    images, options = apart.views.images, ReadOptions()
    extra = open_extra_test_set(
        "v2", tmp_path / "extra", tmp_path / "c", images.classes, options, whites=images.whites
    )
    views = replace(apart.views, cache=tmp_path / "another node")
    named = {"cell": apart.cell, "arms": ("fix", "none"), "name": "v2", "data": tmp_path / "extra"}
    with pytest.raises(UserError, match=r"`also_test` v2=.* holds other images on this node"):
        score_reading(Reading(**named, digest="another"), apart.store, views, options)
    score_reading(Reading(**named, digest=extra.digest), apart.store, views, options)
    found = recorded_on(held_out_set_of(extra), apart.store, apart.cell, ("fix", "none"))
    assert {arm: (r.score.split, r.score.n) for arm, r in found.items()} == {
        "fix": ("v2", 2),
        "none": ("v2", 2),
    }


def test_a_reading_that_lacks_memory_is_begun_again_with_fewer_images_at_once(apart, monkeypatch):
    found = {}
    for room in (apart.cell.batch_size, 1):
        body: Any = backbone.body
        passed: list[int] = []

        def run_out(model, x, *, body=body, passed=passed, room=room, **named):
            passed.append(len(x))
            if len(x) > room:
                raise torch.OutOfMemoryError("injected")
            return body(model, x, **named)

        with monkeypatch.context() as patch:
            patch.setattr(backbone, "body", run_out)
            test = held_out_set(apart, name=f"room for {room}")
            found[room] = scored(test, apart, "none").score
        assert passed[:3] == ([4, 2, 1] if room == 1 else [4, 4, 1])
    whole, split = found.values()
    assert (split.hits1, split.n) == (whole.hits1, whole.n)
