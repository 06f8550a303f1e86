"""Passes of the net: which there are, what they leave, and that arms share them."""

import math
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.trainables.adapted import (
    TRAIN,
    VAL,
    VIEWS,
    WHOLE,
    net_with,
    pixels_of,
    watched,
)
from trainables.data.cache import set_limit
from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError
from trainables.fixres import heads
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.features import body_pass, read_features
from trainables.fixres.passes import cell_passes, net_passes
from trainables.fixres.passes.cell_passes import CellPasses
from trainables.models import backbone
from trainables.models.parts.tensor_names import EFFICIENTNET, STATISTICS
from trainables.profiling.disk_use import map_bytes
from trainables.storage.artifact_store import Store


def test_the_passes_of_all_arms_together_are_those_that_are_said(made):
    """Train: the maps, the mild views, the train resolution. Val: the maps, mirrored too."""
    assert sum(made.seen) == (1 + VIEWS + 1) * TRAIN + 2 * VAL
    assert max(made.seen) == made.cell.batch_size
    assert not list(made.views.cache.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arms", "train", "val"),
    [
        (("none",), 0, 1),
        (("none", "pool"), 0, 1),
        (("bn",), 1, 1),
        (("fix",), 1, 1),
        (("none", "pool", "bn", "frechet", "fix", "fix_affine"), 1, 1),
        (("fix", "fix_aug"), 1 + VIEWS, 1),
        (("none", "fix", "none_flip", "fix_flip"), 1, 2),
    ],
)
def test_arms_share_their_passes(made, arms, train, val):
    """The train resolution's activations are a trunk's: another cell finds them in the store."""
    cell = replace(made.cell, arms=arms, seed=6)
    results, logits, seen = watched(cell, made.store, made.views)
    assert [r.arm for r in results] == list(arms)
    assert sum(seen) == train * TRAIN + val * VAL
    for arm in set(arms) & {"none", "pool", "bn", "frechet"}:  # these know no seed
        torch.testing.assert_close(logits[arm], made.logits[arm])


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_an_arm_alone_takes_the_passes_that_its_entry_says(made, arm):
    """But for the one at the train resolution, which the store holds of the trunk."""
    cell = replace(made.cell, arms=(arm.name,), seed=10)
    _, _, seen = watched(cell, made.store, made.views)
    passes = arm.needs_train + VIEWS * arm.needs_mild_views
    assert sum(seen) == passes * TRAIN + min(arm.sampled, TRAIN) + arm.passes * VAL


def test_the_pass_at_the_train_resolution_is_that_of_the_arm_that_says_so(made, tmp_path):
    store = Store(tmp_path)
    shutil.copytree(made.store.trunk(made.cell.trunk), store.trunk(made.cell.trunk))
    passes = {}
    for name in ("bn", "frechet"):
        _, _, seen = watched(replace(made.cell, arms=(name,)), store, made.views)
        passes[name] = sum(seen)
    assert passes["frechet"] - passes["bn"] == TRAIN
    assert [name for name in ARMS if ARMS[name].sampled] == ["frechet"]


def test_frechet_passes_over_its_sample_alone_and_comes_out_as_beside_other_arms(made, monkeypatch):
    """At the test resolution: what it needs of the train resolution is in the store."""
    monkeypatch.setattr("trainables.fixres.arms.FRECHET_IMAGES", 7)
    found = {}
    for arms in (("frechet",), ("bn", "frechet"), ("frechet", "fix")):
        cell = replace(made.cell, arms=arms, seed=11)
        _, logits, seen = watched(cell, made.store, made.views)
        found[arms] = logits["frechet"]
        assert sum(seen) == (7 if arms == ("frechet",) else TRAIN) + VAL
    alone, *beside = found.values()
    for logits in beside:
        torch.testing.assert_close(logits, alone)
    assert not torch.equal(alone, made.logits["frechet"])  # that of all 22 images


def test_another_crop_is_passed_over_and_resized_by_itself_and_once(made):
    """Its pixels are others, those of train too: no pass at the first crop serves it."""
    close = replace(WHOLE, crop_pct=0.875)
    cell = replace(made.cell, arms=("none", "bn", "fix"), transform=close)
    views = set(made.views.cache.rglob("*.npy"))
    _, logits, seen = watched(cell, made.store, made.views)
    assert sum(seen) == TRAIN + VAL
    new = {p for p in made.views.cache.rglob("*.npy") if p not in views}
    assert len(new) == 2  # train and val
    for shown in (partial(made.views.view, "val"), made.views.train_view_kept_if_small):
        whole, cropped = (shown(t) for t in (WHOLE, close))
        assert (whole != cropped).any()
    x, _ = pixels_of(made.views.images, "val", close)
    with torch.no_grad():
        wanted = net_with(made.trunk)(x)
    torch.testing.assert_close(logits["none"], wanted, rtol=2e-4, atol=2e-4)
    watched(replace(cell, seed=77), made.store, made.views)
    assert {p for p in made.views.cache.rglob("*.npy") if p not in views} == new


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_kept_features_are_the_fixed_nets(made, split):
    features, labels = read_features(made.store.cell(made.cell.key) / f"{split}.arrow")
    x, y = pixels_of(made.views.images, split)
    net = net_with(adapted_state(made.store, made.cell.trunk, made.cell.key, "fix"))
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(torch.tensor(features), wanted, rtol=1e-4, atol=1e-4)
    assert labels.tolist() == y.tolist()


def test_passes_run_when_they_are_needed_and_their_maps_end_with_the_context(made, monkeypatch):
    cell, maps = replace(made.cell, seed=8), []

    def noted(*args, **named):
        maps.append(body_pass(*args, **named))
        return maps[-1]

    monkeypatch.setattr(net_passes, "body_pass", noted)
    with CellPasses(cell, made.store, made.views) as passes:
        assert not maps
        first = passes.trained_logits()
        assert torch.equal(passes.trained_logits(), first)
        assert [one._file.closed for one in maps] == [False]
    assert [one._file.closed for one in maps] == [True]
    assert torch.equal(first, made.logits["none"])


def test_results_do_not_depend_on_what_was_asked_before(made):
    """The passes share one model, whose statistics change from one use to the next."""
    with CellPasses(made.cell, made.store, made.views) as passes:
        bn = passes.logits(passes.val_features, *passes.trained_classifier)
        pool, none = passes.sliding_window_logits(), passes.trained_logits()
        frechet_head = passes.frechet_classifier(ARMS["frechet"].sampled)
        frechet_logits = passes.logits(passes.val_features_as_trained, *frechet_head)
    found = {"bn": bn, "pool": pool, "none": none, "frechet": frechet_logits}
    assert all(torch.equal(logits, made.logits[arm]) for arm, logits in found.items())


def test_re_estimated_statistics_are_kept_as_the_nets_own_tensors(made):
    with CellPasses(made.cell, made.store, made.views) as passes:
        state = passes.statistics_state()
    assert tuple(state) == EFFICIENTNET.of(STATISTICS)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    net = adapted_state(made.store, made.cell.trunk, made.cell.key, "bn")
    assert all(torch.equal(net[name], tensor) for name, tensor in state.items())


def room_for_images(monkeypatch, room):
    """Memory runs out in a pass of more images; gives how many each pass had."""
    body, passed = backbone.body, []

    def run_out(model, x, **named):
        passed.append(len(x))
        if len(x) > room:
            raise torch.OutOfMemoryError("injected")
        return body(model, x, **named)

    monkeypatch.setattr(backbone, "body", run_out)
    return passed


def test_a_cell_that_lacks_memory_is_begun_again_with_fewer_images_at_once(made, monkeypatch):
    cell, plain = replace(made.cell, seed=12), ("none", "pool", "bn", "frechet")
    passed = room_for_images(monkeypatch, 2)
    results, logits, _ = watched(cell, made.store, made.views)
    assert passed[:2] == [4, 2] and max(passed[1:]) == 2
    assert [r.arm for r in results] == list(ARMS)
    for arm in plain:
        torch.testing.assert_close(logits[arm], made.logits[arm])


def test_a_cell_without_room_for_one_image_says_so(made, monkeypatch):
    room_for_images(monkeypatch, 0)
    with pytest.raises(SweepError, match=r"single image of 64 px.*`test_res`"):
        watched(replace(made.cell, seed=13), made.store, made.views)


@pytest.mark.parametrize("room", [0, 2])
def test_classifiers_that_lack_memory_are_fitted_fewer_at_once(made, monkeypatch, room):
    fit, tried = heads.fit, []

    def run_out(*given, at_once, **named):
        tried.append(at_once)
        if at_once > room:
            raise torch.OutOfMemoryError("injected")
        return fit(*given, at_once=at_once, **named)

    monkeypatch.setattr(cell_passes, "fit", run_out)
    cell = replace(made.cell, arms=("fix",), seed=made.cell.seed + 10)
    if room:
        [result], _, _ = watched(cell, made.store, made.views)
        assert tried == [4, 2] and result.head_tried > 0
    else:
        with pytest.raises(SweepError, match=r"single classifier.*`arms`"):
            watched(cell, made.store, made.views)
        assert tried == [4, 2, 1]


@pytest.mark.parametrize("prefix", [None, 12])
def test_a_cell_asks_for_room_for_all_maps_before_it_makes_them(made, tmp_path, prefix):
    """Of a set that is streamed those of the prefix; the bound of the cache is not of maps."""
    views = replace(made.views, cache=tmp_path / "cache")
    set_limit(views.cache, math.prod(made.views.view("val", WHOLE).shape) * 1.2 / 1e9)
    asked, real = [], ViewCache.make_room_for_maps

    def noted(views, *needed):
        asked.append(needed)
        real(views, *needed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ViewCache, "make_room_for_maps", noted)
        cell = replace(made.cell, seed=31, arms=("none", "fix"), prefix=prefix)
        _, logits, _ = watched(cell, made.store, views)
    each = map_bytes("tiny", WHOLE.test_res, 4)
    assert asked == [(n * each, n) for n in ([VAL, TRAIN] if prefix is None else [prefix])]
    torch.testing.assert_close(logits["none"], made.logits["none"], rtol=1e-4, atol=1e-4)
