"""A refit trains and adapts on train and val in one, without val."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from tests.trainables.adapted import HEADS
from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import RefitCell, recorded_results
from trainables.fixres.streaming.feature_shards import FeatureShards
from trainables.models.parts.tensor_names import CLASSIFIER, EFFICIENTNET
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_tensors, write_tensors
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import (
    TrunkStatus,
    finalize_trunk,
    read_trunk_spec,
    read_trunk_weights,
)


def pictures(split):
    return [split[i].tobytes() for i in range(len(split))]


def test_merged_holds_train_and_val_and_nothing_else(tiny_images):
    merged = tiny_images.merged()
    train, val, test = (pictures(tiny_images.split(name)) for name in ("train", "val", "test"))
    both = merged.split("train")
    assert sorted(pictures(both)) == sorted(train + val)
    assert [p for p in pictures(both) if p in train] == train != pictures(both)[: len(train)]
    assert pictures(merged.split("test")) == test
    assert sorted(both.labels) == sorted(
        [*tiny_images.split("train").labels, *tiny_images.split("val").labels]
    )
    with pytest.raises(ValueError, match="no split 'val'"):
        merged.split("val")
    assert merged.digest != tiny_images.digest and merged == tiny_images.merged()
    again = pickle.loads(pickle.dumps(both))
    assert pictures(again) == pictures(both)


def refitted(made, arm, root):
    """The arm of the cell again, on a trunk of the same weights, on the merged images."""
    merged = made.views.images.merged()
    found = made.results[arm]
    head = found.head and replace(found.head, epochs=max(1, found.head.epochs))
    cell = RefitCell(
        **{**vars(made.cell), "arms": (arm,)},
        images=merged.digest,
        setting=head,
    )
    store = Store(root / "store")
    for name in ("spec.json", "trunk.safetensors", "result.json"):
        to = store.trunk(made.cell.trunk) / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes((made.store.trunk(made.cell.trunk) / name).read_bytes())
    views = ViewCache(images=merged, cache=root / "cache", threads=2)
    return cell, store, views


@pytest.mark.parametrize("arm", ["bn", "fix", "none"])
def test_an_arm_is_refitted_on_all_without_a_score(made, arm, tmp_path):
    cell, store, views = refitted(made, arm, tmp_path)
    assert cell.key != made.cell.key
    assert adapt_cell(cell, store, views) == [] == recorded_results(store, cell.key)
    state = adapted_state(store, cell.trunk, cell.key, arm)
    swept = adapted_state(made.store, made.cell.trunk, made.cell.key, arm)
    changed = {name for name, tensor in state.items() if not tensor.equal(swept[name])}
    assert changed == set(
        EFFICIENTNET.of(*ARMS[arm].changes)
    )  # other images, other statistics and classifier
    assert not (store.cell(cell.key) / "predictions.arrow").exists()


def test_a_refit_again_is_the_same_to_the_last_bit(made, tmp_path):
    cell, store, views = refitted(made, "fix", tmp_path)
    adapt_cell(cell, store, views)
    state = adapted_state(store, cell.trunk, cell.key, "fix")
    again, other, there = refitted(made, "fix", tmp_path / "again")
    adapt_cell(again, other, there)
    twice = adapted_state(other, again.trunk, again.key, "fix")
    assert all(tensor.equal(twice[name]) for name, tensor in state.items())


def test_what_is_not_finite_is_refused(made, tmp_path):
    cell, store, views = refitted(made, "fix", tmp_path)
    path = store.trunk(cell.trunk) / "trunk.safetensors"
    state = read_tensors(path)
    weight, _ = EFFICIENTNET.of(CLASSIFIER)
    state[weight] = torch.full_like(state[weight], torch.nan)
    write_tensors(path, state)
    with pytest.raises(SweepError, match="is not finite"):
        adapt_cell(cell, store, views)
    assert not (store.cell(cell.key) / "rows.json").exists()


# --- against a set whose train split was written to hold all ------------------------------------


def written_as_one(images, root, painted=False):
    """A copy whose train holds the images of val and whose val those of test; the first image of
    val is painted over where ``painted``."""
    shutil.copytree(images.root, root)
    with pa.memory_map(str(images.root / "index.arrow")) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    splits = table["split"].to_pylist()
    if painted:
        first = table.filter(pc.equal(table["split"], "val")).to_pylist()[0]
        start, length = first["offset"], first["height"] * first["width"] * 3
        pixels = np.memmap(root / "pixels.bin", dtype=np.uint8, mode="r+")
        pixels[start : start + length] = 255 - pixels[start : start + length]
        pixels.flush()
    now = {"train": "train", "val": "train", "test": "val"}
    at = table.schema.get_field_index("split")
    table = table.set_column(at, "split", pa.array([now[split] for split in splits]))
    with (
        pa.OSFile(str(root / "index.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    return replace(images, root=root, digest=f"written {painted}")


@pytest.fixture(scope="module", params=[False, True], ids=["as it was", "an image of val painted"])
def swept(request, made, tmp_path_factory):
    """All arms of a plain cell on such a set, with one setting of the classifier; and whether its
    images are those of the merged one."""
    root = tmp_path_factory.mktemp("swept")
    images = written_as_one(made.views.images, root / "images", painted=request.param)
    one = replace(HEADS, lr=(0.1,), label_smoothing=(0.1,))
    cell = replace(made.cell, heads=one, arms=tuple(a for a in ARMS if ARMS[a].changes))
    store = Store(root / "store")
    shutil.copytree(made.store.trunk(cell.trunk), store.trunk(cell.trunk))
    views = ViewCache(images=images, cache=root / "cache", threads=2)
    results = {result.arm: result for result in adapt_cell(cell, store, views)}
    return cell, store, results, not request.param


@pytest.mark.parametrize("arm", [a for a in ARMS if ARMS[a].changes])
def test_a_refit_is_what_a_cell_makes_of_a_train_split_that_holds_all(made, swept, arm, tmp_path):
    """To the last bit; and what val shows counts as what train shows: painted over, it differs."""
    cell, store, results, same = swept
    merged = made.views.images.merged()
    refit = RefitCell(
        **{**vars(cell), "arms": (arm,)}, images=merged.digest, setting=results[arm].head
    )
    views = ViewCache(images=merged, cache=tmp_path / "cache", threads=2)
    adapt_cell(refit, made.store, views)
    wanted = adapted_state(store, cell.trunk, cell.key, arm)
    found = adapted_state(made.store, refit.trunk, refit.key, arm)
    differing = {name for name in wanted if not torch.equal(wanted[name], found[name])}
    assert differing == (set() if same else set(EFFICIENTNET.of(*ARMS[arm].changes)))


def trained(made, images, root):
    """The made trunk's spec, trained for two epochs on other images; nothing is scored."""
    spec = read_trunk_spec(made.store, made.cell.trunk)
    spec = replace(spec, images=images.digest, recipe=replace(spec.recipe, epochs=3))
    store = Store(root)
    shutil.copytree(made.store.weights("_").parent, store.weights("_").parent)
    arguments = {"cache": root / "cache", "threads": 2, "val_transforms": (), "rungs": ()}
    training = TrunkTraining(spec, images, store, **arguments)
    reports = [training.epoch(), training.epoch()]
    finalize_trunk(store, spec.key, TrunkStatus.FINISHED)
    return spec, reports, read_trunk_weights(store, spec.key)


def test_a_trunk_is_trained_on_val_too_and_scored_on_nothing(made, tmp_path):
    images = made.views.images
    spec, reports, state = trained(made, images.merged(), tmp_path / "merged")
    assert [report.images for report in reports] == [32, 32]  # of 37, in batches of 8
    assert all(report.val == {} for report in reports)
    assert spec.key != replace(spec, images=images.digest).key
    for painted in (False, True):
        name = f"painted {painted}"
        written = written_as_one(images, tmp_path / name, painted=painted)
        _, _, other = trained(made, written, tmp_path / f"{name} store")
        assert all(torch.equal(state[n], other[n]) for n in state) != painted


def test_a_pretrained_trunks_activations_are_of_the_images_that_it_is_refitted_on(made, tmp_path):
    """Its key is the same: what the sweep kept of the images of train alone is another matter."""
    cell, store, views = refitted(made, "frechet", tmp_path)
    plain = replace(made.cell, arms=("frechet",))
    adapt_cell(plain, store, replace(made.views, cache=tmp_path / "plain"))
    adapt_cell(cell, store, views)
    kept = [path.read_text() for path in store.activations("_").parent.iterdir()]
    assert len(kept) == 2 and kept[0] != kept[1]


def test_a_refit_on_the_sweeps_own_images_is_a_mistake(made, tmp_path):
    cell, store, views = refitted(made, "fix", tmp_path)
    with pytest.raises(AssertionError):
        adapt_cell(cell, store, replace(views, images=made.views.images))


def test_every_part_of_a_refit_is_in_its_key(made, tmp_path):
    cell, _, _ = refitted(made, "fix", tmp_path)
    others = [
        replace(cell, images="other"),
        replace(cell, setting=None),
        replace(cell, setting=replace(cell.setting, epochs=9)),
        replace(cell, arms=("bn",)),
    ]
    assert len({one.key for one in (cell, *others)}) == 1 + len(others)


@pytest.mark.parametrize("arm", ["bn", "fix", "fix_affine"])
def test_a_refit_that_streams_leaves_nothing_that_it_was_made_of(made, arm, tmp_path):
    cell, store, views = refitted(made, arm, tmp_path)
    cell = replace(cell, prefix=12)
    written: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureShards, "write_raw", written_to(written, FeatureShards.write_raw))
        adapt_cell(cell, store, views)
    left = [path.name for path in store.cell(cell.key).iterdir()]
    assert not [name for name in left if ".raw." in name or ".moments." in name]
    assert bool(written) == (arm == "fix"), "fix_affine trains on maps, by a setting that it has"


def written_to(written, plain):
    def write(shards, number, raw):
        written.append(number)
        plain(shards, number, raw)

    return write
