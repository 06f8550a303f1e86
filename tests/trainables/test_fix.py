from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from trainables import backbones, fix, variants
from trainables.evaluate import score
from trainables.features import read_features
from trainables.fix import CellSpec, adapt, adapted_state, load_model, read_test, recorded_results
from trainables.heads import HeadGrid, epoch_order
from trainables.store import Store
from trainables.train import TrunkTraining
from trainables.transforms import Augmentation
from trainables.transforms import test_transform as eval_transform
from trainables.trunk import Hyper, Recipe, TrunkSpec, finished_trunk, settle
from trainables.workplace import Workplace

TRAIN_RES, TEST_RES, CLASSES = 32, 64, 3
HEADS = HeadGrid(lr=(0.02, 0.1), label_smoothing=(0.0, 0.1), epochs=(1, 3), batch_size=8)
TUNED = {"classifier.weight", "classifier.bias", "bn2.running_mean", "bn2.running_var"}


@pytest.fixture(scope="module")
def made(tiny_images, lite0_weights, tmp_path_factory):
    """A trunk, and a cell adapted from it; what was scored, and how many images were seen."""
    root = tmp_path_factory.mktemp("fix")
    store = Store(root / "store")
    spec = TrunkSpec(
        variant="lite0",
        train_res=TRAIN_RES,
        weights=backbones.find_weights(variants.get("lite0"), str(lite0_weights), store),
        images=tiny_images.digest,
        recipe=Recipe(
            epochs=1,
            batch_size=8,
            optimizer="sgd",
            schedule="constant",
            warmup_epochs=0,
            ema_decay=0,
            dropout=False,
            augmentation=Augmentation(),
        ),
        hyper=Hyper(lr=0.02, weight_decay=0.0, label_smoothing=0.0),
        seed=0,
    )
    training = TrunkTraining(spec, tiny_images, store, cache=root, threads=2, test_res=(), rungs=())
    training.epoch()
    settle(store, spec.key, "finished")
    cell = CellSpec(trunk=spec.key, test_res=TEST_RES, heads=HEADS, batch_size=4, seed=5)
    place = Workplace(images=tiny_images, cache=root / "cache", threads=2)
    before = (store.trunk(spec.key) / "trunk.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        seen, scored = count_images(patch), []

        def note(logits, *rest):
            scored.append(logits)
            return score(logits, *rest)

        patch.setattr(fix, "score", note)
        results = adapt(cell, store, place)
    _, trunk = finished_trunk(store, spec.key)
    return SimpleNamespace(
        store=store,
        cell=cell,
        place=place,
        trunk=trunk,
        results=results,
        scored=dict(zip(fix.ARMS, scored, strict=True)),
        seen=seen,
        before=before,
    )


def count_images(patch):
    """From now on, the number of images in each batch that enters any net."""
    seen: list[int] = []
    place = backbones.place

    def counted(model, device):
        placed = place(model, device)
        placed.conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return placed

    patch.setattr(backbones, "place", counted)
    return seen


def pixels_of(images, split):
    part = images.split(split)
    squares = [eval_transform(part[i], TEST_RES, 1.0, "bicubic") for i in range(len(part))]
    x = (torch.tensor(np.stack(squares)) / 255 - 0.5) / 0.5
    return x.permute(0, 3, 1, 2).contiguous(), torch.tensor(part.labels)


def net_with(state):
    net = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES)
    net.load_state_dict(state)
    return net.eval()


@torch.enable_grad()
def plain_fix(made, setting):
    """FixRes by the book: no kept features, the whole net runs in every step."""
    net = net_with(made.trunk)
    x, y = pixels_of(made.place.images, "train")
    net.bn2.train()
    net.bn2.momentum = 1.0
    with torch.no_grad():
        net(x)  # one batch of all images: the statistics are theirs
    net.eval()
    net.requires_grad_(False)
    net.classifier.requires_grad_(True)
    optimizer = torch.optim.SGD(
        net.classifier.parameters(),
        setting.lr,
        momentum=HEADS.momentum,
        weight_decay=HEADS.weight_decay,
    )
    for epoch in range(1, setting.epochs + 1):
        for chosen in epoch_order(len(x), made.cell.seed, epoch).split(HEADS.batch_size):
            loss = F.cross_entropy(
                net(x[chosen]), y[chosen], label_smoothing=setting.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def arm(made, name):
    (found,) = [result for result in made.results if result.arm == name]
    return found


def test_the_fix_on_kept_features_is_the_plain_fix(made):
    result, (x, y) = arm(made, "fix"), pixels_of(made.place.images, "val")
    state = adapted_state(made.store, made.cell.trunk, made.cell.key, "fix")
    with torch.no_grad():
        ours = net_with(state)(x)
        theirs = plain_fix(made, result.head)(x)
        untouched = net_with(made.trunk)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - untouched).abs().max() > 0.05  # it did something
    torch.testing.assert_close(made.scored["fix"], theirs, rtol=1e-4, atol=1e-4)
    assert result.score == score(theirs, y, "val")


def test_the_head_is_the_one_of_the_grid_that_val_likes_best(made):
    (x, y), hits, losses = pixels_of(made.place.images, "val"), {}, {}
    for setting in HEADS.settings:
        with torch.no_grad():
            logits = plain_fix(made, setting)(x)
        hits[setting] = score(logits, y, "val").hits1
        losses[setting] = F.cross_entropy(logits, y).item()
    chosen = arm(made, "fix").head
    assert hits[chosen] == max(hits.values())
    equals = [setting for setting in hits if hits[setting] == hits[chosen]]
    assert losses[chosen] == pytest.approx(min(losses[s] for s in equals), abs=1e-6)
    assert arm(made, "fix").head_settings == len(hits) == 8


def test_the_fix_changes_classifier_and_last_norms_statistics_and_not_a_bit_else(made):
    fixed = adapted_state(made.store, made.cell.trunk, made.cell.key, "fix")
    assert fixed.keys() == made.trunk.keys()
    changed = {name for name in fixed if not torch.equal(fixed[name], made.trunk[name])}
    assert changed == TUNED
    assert all(fixed[name].dtype == made.trunk[name].dtype for name in fixed)
    assert torch.equal(fixed["bn2.num_batches_tracked"], made.trunk["bn2.num_batches_tracked"])


def test_what_a_cell_stores_beside_the_trunk_is_small(made):
    folder = made.store.cell(made.cell.key)
    assert (folder / "delta.safetensors").stat().st_size < 4 * (CLASSES + 2) * 1280 + 1000
    trunk = made.store.trunk(made.cell.trunk) / "trunk.safetensors"
    assert trunk.read_bytes() == made.before
    files = {p.name for p in folder.iterdir()}
    assert files == {
        "spec.json", "rows.json", "delta.safetensors", "train.arrow", "val.arrow"
    }  # fmt: skip


def test_none_is_the_trunk_at_the_test_resolution(made):
    x, y = pixels_of(made.place.images, "val")
    with torch.no_grad():
        logits = net_with(made.trunk)(x)
    found = arm(made, "none")
    assert found.score == score(logits, y, "val")
    torch.testing.assert_close(made.scored["none"], logits, rtol=1e-4, atol=1e-4)
    assert found.head is None
    state = adapted_state(made.store, made.cell.trunk, made.cell.key, "none")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.trunk.items())


def test_the_net_sees_every_image_of_train_and_val_once(made):
    assert sum(made.seen) == 22 + 15
    assert max(made.seen) == made.cell.batch_size
    assert not list(made.place.cache.rglob("*.tmp"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_kept_features_are_the_fixed_nets(made, split):
    features, labels = read_features(made.store.cell(made.cell.key) / f"{split}.arrow")
    x, y = pixels_of(made.place.images, split)
    net = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, "fix"))
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(torch.tensor(features), wanted, rtol=1e-4, atol=1e-4)
    assert labels.tolist() == y.tolist()


def test_what_is_recorded_is_what_was_found(made):
    assert recorded_results(made.store, made.cell.key) == made.results
    assert recorded_results(made.store, "another") is None
    assert {result.arm for result in made.results} == set(fix.ARMS)


def test_the_same_cell_again_is_the_same(made):
    folder = made.store.cell(made.cell.key)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}
    again = adapt(made.cell, made.store, made.place)
    assert [replace(r, seconds=0) for r in again] == [replace(r, seconds=0) for r in made.results]
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}
    assert after == before


def test_a_cell_cut_short_has_no_results(made, monkeypatch):
    cell = replace(made.cell, seed=6)
    monkeypatch.setattr(fix, "_fit_head", None)
    with pytest.raises(TypeError):
        adapt(cell, made.store, made.place)
    assert recorded_results(made.store, cell.key) is None
    assert not list(made.place.cache.rglob("*.tmp"))


@pytest.mark.parametrize(
    "change",
    [{"test_res": 96}, {"seed": 1}, {"trunk": "other"}, {"heads": replace(HEADS, lr=(1.0,))}],
)
def test_every_part_of_a_cell_is_in_its_key(made, change):
    assert replace(made.cell, **change).key != made.cell.key


def test_a_loaded_model_is_ready_to_evaluate(made):
    spec, state = finished_trunk(made.store, made.cell.trunk)
    model = load_model(spec, state, CLASSES)
    x, _ = pixels_of(made.place.images, "val")
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(x), net_with(state)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["none", "fix"])
def test_test_is_read_once_for_each_arm(made, name, monkeypatch):
    cell = made.cell
    seen = count_images(monkeypatch)
    first = read_test(made.store, cell.trunk, cell, name, made.place)
    assert sum(seen) == 9
    again = read_test(made.store, cell.trunk, cell, name, made.place)
    assert again == first
    assert sum(seen) == 9
    x, y = pixels_of(made.place.images, "test")
    with torch.no_grad():
        logits = net_with(adapted_state(made.store, cell.trunk, cell.key, name))(x)
    assert first.score == score(logits, y, "test")
    assert (first.arm, first.score.split, first.score.n) == (name, "test", 9)
