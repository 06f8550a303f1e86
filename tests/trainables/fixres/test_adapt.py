"""What a cell leaves in the store, and that it leaves it whole or not at all."""

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from tests.trainables.adapted import CLASSES, VIEWS, watched
from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS, AdaptedNet
from trainables.fixres.cell import recorded_results
from trainables.fixres.cross_fit import val_halves
from trainables.transforms.fast_resize import kernel_here


def test_what_a_cell_stores_beside_the_trunk_is_small(made):
    folder = made.store.cell(made.cell.key)
    deltas = {f"delta-{arm}.safetensors" for arm in ARMS if ARMS[arm].changes}
    kept = {f"train-mild-{v}.arrow" for v in range(VIEWS)} | {"train.arrow", "val.arrow"}
    kept |= {f"logits-{arm}.arrow" for arm in ARMS if ARMS[arm].plain}
    assert {p.name for p in folder.iterdir()} == deltas | kept | {
        "spec.json", "rows.json", "predictions.arrow"
    }  # fmt: skip
    assert all((folder / d).stat().st_size < 4 * (CLASSES + 4) * 1280 + 1000 for d in deltas)
    trunk = made.store.trunk(made.cell.trunk) / "trunk.safetensors"
    assert trunk.read_bytes() == made.before


def test_predictions_are_kept_for_each_arm_and_image(made):
    path = made.store.cell(made.cell.key) / "predictions.arrow"
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    picked = [f"crossfit_{arm}" for arm in ARMS if arm.startswith("fix")]
    assert table.column_names == ["label", *ARMS, "val_half", *picked]
    labels = table["label"].to_numpy()
    halves = val_halves(torch.tensor(labels))
    assert table["val_half"].to_pylist() == halves.tolist()
    assert labels.tolist() == made.views.images.split("val").labels.tolist()
    for arm, result in made.results.items():
        assert (table[arm].to_numpy() == labels).sum() == result.score.hits1
        assert (result.crossfit is not None) == arm.startswith("fix")
        if result.crossfit is not None:
            crossed = (table[f"crossfit_{arm}"].to_numpy() == labels).mean()
            assert result.crossfit["top1"] == crossed


def test_the_same_cell_again_is_the_same(made):
    folder = made.store.cell(made.cell.key)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}
    again = adapt_cell(made.cell, made.store, made.views)
    assert [replace(r, seconds=0) for r in again] == [
        replace(r, seconds=0) for r in made.results.values()
    ]
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}
    assert after == before


def test_more_images_at_once_give_the_same_logits_up_to_rounding(made, monkeypatch):
    """Of the arms that fit nothing on val: others may pick another setting by a rounding."""
    arms, seen, found = ("none", "pool", "bn", "frechet"), [], []
    monkeypatch.setattr("trainables.fixres.adapt.taken_arms", lambda *_: {})
    monkeypatch.setattr("trainables.fixres.adapt._kept_features", lambda *_: None)
    for at_once in (None, 16):
        cell = replace(made.cell, arms=arms, seed=17)
        _, logits, batches = watched(cell, made.store, made.views, images_at_once=at_once)
        seen.append(max(batches))
        found.append(logits)
    assert seen == [made.cell.batch_size, 16]
    for arm in arms:
        torch.testing.assert_close(found[1][arm], found[0][arm], rtol=1e-5, atol=1e-5, msg=arm)


def test_a_cell_cut_short_has_no_results(made, monkeypatch):
    cell = replace(made.cell, seed=7)
    monkeypatch.setattr("trainables.fixres.passes.cell_passes.fit", None)
    with pytest.raises(TypeError):
        adapt_cell(cell, made.store, made.views)
    assert recorded_results(made.store, cell.key) is None
    assert not list(made.views.cache.rglob("*.tmp"))


def test_arms_are_adapted_in_the_order_of_the_table(made):
    cell = replace(made.cell, arms=("bn", "pool", "none"), seed=9)
    results = adapt_cell(cell, made.store, made.views)
    assert [result.arm for result in results] == ["none", "pool", "bn"]


@pytest.mark.parametrize("arm", ARMS)
def test_a_result_tells_the_kernel_where_its_arm_is_shown_train_by_it(made, monkeypatch, arm):
    shown, look = [], ViewCache.train_view

    def watched(*of, **how):
        shown.append(arm)
        return look(*of, **how)

    monkeypatch.setattr(ViewCache, "train_view", watched)
    monkeypatch.setattr("trainables.fixres.adapt.taken_arms", lambda *_: {})
    monkeypatch.setattr("trainables.fixres.adapt._kept_features", lambda *_: None)
    [result] = adapt_cell(replace(made.cell, arms=(arm,), seed=13), made.store, made.views)
    assert result.resize == (kernel_here() if shown else "")


def test_an_arm_that_changes_more_than_it_says_is_a_mistake(made, monkeypatch):
    secret = replace(ARMS["bn"], changes=())
    monkeypatch.setitem(ARMS, "bn", secret)
    cell = replace(made.cell, arms=("bn",), seed=9)
    with pytest.raises(AssertionError):
        adapt_cell(cell, made.store, made.views)
    assert recorded_results(made.store, cell.key) is None


def test_an_arm_whose_logits_are_not_finite_fails_the_cell_in_a_sentence(made, monkeypatch):
    def broken(passes):
        logits = torch.zeros(len(passes.labels["val"]), 3)
        logits[4] = torch.nan
        return AdaptedNet(val_logits=lambda: logits, changed={})

    monkeypatch.setitem(ARMS, "pool", replace(ARMS["pool"], adapt=broken))
    cell = replace(made.cell, arms=("none", "pool"), seed=9)
    with pytest.raises(SweepError, match=r"arm pool has no score: .* 1 of 15 images of val"):
        adapt_cell(cell, made.store, made.views)
    assert recorded_results(made.store, cell.key) is None
