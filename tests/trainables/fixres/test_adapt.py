"""The arms, each against the whole net run plainly."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from timm.layers import TestTimePoolHead as TimmPoolHead

from tests.trainables.adapted import (
    CLASSES,
    HEADS,
    SEED,
    TEST_RES,
    TRAIN,
    TRAIN_RES,
    VAL,
    VIEWS,
    WHOLE,
    net_with,
    normalised,
    pixels_of,
    watched,
)
from trainables.evaluation.metrics import score
from trainables.fixres import frechet
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import load_model, recorded_results
from trainables.fixres.features import read_features
from trainables.fixres.heads import epoch_order
from trainables.models.tensor_names import AFFINE, CLASSIFIER, STATISTICS
from trainables.training.trunk import read_trunk_spec, read_trunk_weights


def re_estimated(made):
    """The trunk with its last batch norm's statistics as torch takes them from one large batch."""
    net = net_with(made.trunk)
    x, _ = pixels_of(made.place.images, "train")
    net.bn2.train()
    net.bn2.momentum = 1.0
    with torch.no_grad():
        net(x)
    return net.eval()


@torch.enable_grad()
def trained(made, net, setting, views, tuned):
    """The net with the named tensors trained: no kept features, all of it runs in every step."""
    y = torch.tensor(made.place.images.split("train").labels)
    net.requires_grad_(False)
    groups = []
    for name in tuned:
        parameter = net.get_parameter(name).requires_grad_(True)
        decay = setting.weight_decay if name in CLASSIFIER else 0.0
        groups.append({"params": [parameter], "weight_decay": decay})
    optimizer = torch.optim.SGD(groups, setting.lr, momentum=HEADS.momentum)
    for epoch in range(1, setting.epochs + 1):
        x = views[(epoch - 1) % len(views)]
        for chosen in epoch_order(len(x), SEED, epoch).split(HEADS.batch_size):
            loss = F.cross_entropy(
                net(x[chosen]), y[chosen], label_smoothing=setting.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def plain(made, arm):
    """Val's logits by the arm, the plain way."""
    images, head = made.place.images, made.results[arm].head
    x, _ = pixels_of(images, "val")
    train, _ = pixels_of(images, "train")
    if arm == "none":
        x, _ = pixels_of(images, "val", replace(WHOLE, crop_pct=0.875))
        net = net_with(made.trunk)
    elif arm == "crop1":
        net = net_with(made.trunk)
    elif arm == "pool":
        net = TimmPoolHead(net_with(made.trunk), original_pool=TRAIN_RES // 32)
    elif arm == "bn":
        net = re_estimated(made)
    elif arm == "frechet":
        net = mapped(made)
    elif arm == "fix":
        net = trained(made, re_estimated(made), head, [train], CLASSIFIER)
    elif arm == "fix_aug":
        part = images.split("train")
        views = []
        for number in range(VIEWS):
            view = made.place.mild_view("train", WHOLE, number=number, hflip=0.5, seed=SEED)
            assert len(view) == len(part)
            views.append(normalised([np.array(square) for square in view]))
        net = trained(made, re_estimated(made), head, views, CLASSIFIER)
    elif arm == "fix_affine":
        net = trained(made, re_estimated(made), head, [train], (*AFFINE, *CLASSIFIER))
    with torch.no_grad():
        return net(x)


def mapped(made):
    """The trunk with its pooled features mapped before the classifier."""
    net = net_with(made.trunk)
    pooled = []
    for res in (TRAIN_RES, TEST_RES):
        x, _ = pixels_of(made.place.images, "train", replace(WHOLE, test_res=res))
        with torch.no_grad():
            pooled.append(net.forward_head(net.forward_features(x), pre_logits=True).numpy())
    old, new = frechet.fit_laws(*(frechet.quantiles(features) for features in pooled))

    def forward(x):
        features = net.forward_head(net.forward_features(x), pre_logits=True).double().numpy()
        back = old.quantile(new.cdf(features).clip(1e-12, 1 - 1e-12))
        inside = (new.cdf(features) > 1e-9) & (new.cdf(features) < 1 - 1e-9)
        line = np.polyfit(features[inside], back[inside], 1)  # it is one: the tails go along it
        return net.classifier(torch.tensor(np.polyval(line, features)).float())

    return forward


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_what_the_whole_net_does_plainly(made, arm):
    wanted = plain(made, arm)
    torch.testing.assert_close(made.logits[arm], wanted, rtol=2e-4, atol=2e-4)
    assert made.results[arm].score == score(
        wanted, torch.tensor(made.place.images.split("val").labels), "val"
    )


@pytest.mark.parametrize("arm", [a for a in ARMS if ARMS[a].plain])
def test_what_an_arm_leaves_is_a_net_that_does_the_same(made, arm):
    transform = replace(WHOLE, crop_pct=0.875) if arm == "none" else WHOLE
    x, _ = pixels_of(made.place.images, "val", transform)
    net = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, arm))
    with torch.no_grad():
        torch.testing.assert_close(net(x), made.logits[arm], rtol=1e-4, atol=1e-4)


def test_no_two_arms_are_the_same(made):
    arms = list(ARMS)
    for i, one in enumerate(arms):
        for other in arms[:i]:
            assert (made.logits[one] - made.logits[other]).abs().max() > 1e-3, (one, other)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_changes_what_it_says_and_not_a_bit_else(made, arm):
    state = adapted_state(made.store, made.cell.trunk, made.cell.key, arm)
    assert state.keys() == made.trunk.keys()
    changed = {name for name in state if not torch.equal(state[name], made.trunk[name])}
    assert changed == set(ARMS[arm].changes)
    assert all(state[name].dtype == made.trunk[name].dtype for name in state)


def test_what_each_arm_may_change():
    """FixRes touches the classifier and the last batch norm, and nothing else ever."""
    assert {a for a in ARMS if not ARMS[a].changes} == {"none", "crop1", "pool"}
    assert ARMS["bn"].changes == STATISTICS
    assert ARMS["fix"].changes == ARMS["fix_aug"].changes == (*CLASSIFIER, *STATISTICS)
    assert set(ARMS["fix_affine"].changes) - set(ARMS["fix"].changes) == set(AFFINE)
    every = {name for arm in ARMS.values() for name in arm.changes}
    assert {name.partition(".")[0] for name in every} == {"classifier", "bn2"}


def test_the_passes_of_all_arms_together_are_those_that_are_said(made):
    """Train: the maps, the mild views, the train resolution. Val: the native crop and the full."""
    assert sum(made.seen) == (1 + VIEWS + 1) * TRAIN + 2 * VAL
    assert max(made.seen) == made.cell.batch_size
    assert not list(made.place.cache.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arms", "train", "val"),
    [
        (("none",), 0, 1),
        (("crop1", "pool"), 0, 1),
        (("none", "crop1", "pool"), 0, 2),
        (("bn",), 1, 1),
        (("fix",), 1, 1),
        (("none", "crop1", "pool", "bn", "frechet", "fix", "fix_affine"), 1, 2),
        (("fix", "fix_aug"), 1 + VIEWS, 1),
    ],
)
def test_arms_share_their_passes(made, arms, train, val):
    """The train resolution's activations are a trunk's: another cell finds them in the store."""
    cell = replace(made.cell, arms=arms, seed=6)
    results, logits, seen = watched(cell, made.store, made.place)
    assert [r.arm for r in results] == list(arms)
    assert sum(seen) == train * TRAIN + val * VAL
    for arm in set(arms) & {"none", "crop1", "pool", "bn", "frechet"}:  # these know no seed
        torch.testing.assert_close(logits[arm], made.logits[arm])


def test_where_the_native_crop_is_the_cells_own_none_takes_no_pass_of_its_own(made):
    cell = replace(made.cell, arms=("none", "crop1"), transform=replace(WHOLE, crop_pct=0.875))
    _, logits, seen = watched(cell, made.store, made.place)
    assert sum(seen) == VAL
    assert torch.equal(logits["none"], logits["crop1"])
    torch.testing.assert_close(logits["none"], made.logits["none"], rtol=1e-4, atol=1e-4)


def test_at_the_train_resolution_the_map_of_activations_is_the_identity(made):
    at_home = replace(WHOLE, test_res=TRAIN_RES)
    cell = replace(made.cell, arms=("crop1", "pool", "frechet"), transform=at_home)
    _, logits, _ = watched(cell, made.store, made.place)
    torch.testing.assert_close(logits["frechet"], logits["crop1"])
    torch.testing.assert_close(logits["pool"], logits["crop1"])


def test_the_classifier_is_picked_among_all_settings_and_epochs(made):
    fixed = made.results["fix"]
    assert fixed.head_tried == 4 * HEADS.epochs
    assert made.results["fix_aug"].head_tried == 2 * HEADS.epochs
    assert made.results["fix_aug"].head.label_smoothing > 0
    affine = made.results["fix_affine"]
    assert affine.head == replace(fixed.head, epochs=affine.head.epochs)
    assert fixed.head_tried < affine.head_tried <= fixed.head_tried + HEADS.epochs
    assert all(made.results[arm].head is None for arm in ("none", "crop1", "pool", "bn"))


def test_what_a_cell_stores_beside_the_trunk_is_small(made):
    folder = made.store.cell(made.cell.key)
    deltas = {f"delta-{arm}.safetensors" for arm in ARMS if ARMS[arm].changes}
    kept = {f"train-mild-{v}.arrow" for v in range(VIEWS)} | {"train.arrow", "val.arrow"}
    assert {p.name for p in folder.iterdir()} == deltas | kept | {
        "spec.json", "rows.json", "predictions.arrow"
    }  # fmt: skip
    assert all((folder / d).stat().st_size < 4 * (CLASSES + 4) * 1280 + 1000 for d in deltas)
    trunk = made.store.trunk(made.cell.trunk) / "trunk.safetensors"
    assert trunk.read_bytes() == made.before


def test_predictions_are_kept_for_each_arm_and_image(made):
    path = made.store.cell(made.cell.key) / "predictions.arrow"
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert table.column_names == ["label", *ARMS]
    labels = table["label"].to_numpy()
    assert labels.tolist() == made.place.images.split("val").labels.tolist()
    for arm, result in made.results.items():
        assert (table[arm].to_numpy() == labels).sum() == result.score.hits1


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
    assert recorded_results(made.store, made.cell.key) == list(made.results.values())
    assert recorded_results(made.store, "another") is None


def test_the_same_cell_again_is_the_same(made):
    folder = made.store.cell(made.cell.key)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}
    again = adapt_cell(made.cell, made.store, made.place)
    assert [replace(r, seconds=0) for r in again] == [
        replace(r, seconds=0) for r in made.results.values()
    ]
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}
    assert after == before


def test_a_cell_cut_short_has_no_results(made, monkeypatch):
    cell = replace(made.cell, seed=7)
    monkeypatch.setattr("trainables.fixres.cell_passes.fit", None)
    with pytest.raises(TypeError):
        adapt_cell(cell, made.store, made.place)
    assert recorded_results(made.store, cell.key) is None
    assert not list(made.place.cache.rglob("*.tmp"))


@pytest.mark.parametrize(
    "change",
    [
        {"transform": replace(WHOLE, test_res=96)},
        {"transform": replace(WHOLE, crop_pct=0.9)},
        {"transform": replace(WHOLE, interpolation="bilinear")},
        {"arms": ("fix",)},
        {"views": 3},
        {"seed": 1},
        {"trunk": "other"},
        {"heads": replace(HEADS, lr=(1.0,))},
    ],
)
def test_every_part_of_a_cell_is_in_its_key(made, change):
    assert replace(made.cell, **change).key != made.cell.key


def test_a_loaded_model_is_ready_to_evaluate(made):
    spec = read_trunk_spec(made.store, made.cell.trunk)
    state = read_trunk_weights(made.store, made.cell.trunk)
    model = load_model(spec, state, CLASSES)
    x, _ = pixels_of(made.place.images, "val")
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(x), net_with(state)(x), rtol=1e-4, atol=1e-4)
