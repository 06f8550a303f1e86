import errno
import os
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.factories import is_one_sentence
from tests.trainables.training.small_nets import net_of
from trainables.fixres.features import (
    Maps,
    NormStatistics,
    body_pass,
    features_of,
    norm_statistics,
    read_features,
    set_norm,
    write_features,
)
from trainables.models import backbone
from trainables.models.variants import Preprocessing
from trainables.storage.full_disk import DiskFullError

CPU = torch.device("cpu")
PIXELS = Preprocessing(
    mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7), interpolation="bicubic", crop_pct=1.0
)
COUNT, RES = 7, 48


@pytest.fixture
def net(lite0_weights):
    model: Any = timm.create_model("tf_efficientnet_lite0", num_classes=5)
    model.load_state_dict(load_file(lite0_weights / "lite0.safetensors"))
    torch.nn.init.uniform_(model.bn2.weight, 0.5, 1.5)
    torch.nn.init.normal_(model.bn2.bias)
    return model.eval()


@pytest.fixture(scope="module")
def view():
    return np.random.default_rng(0).integers(0, 256, (COUNT, RES, RES, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def x(view):
    pixels = torch.tensor(view).double() / 255
    normalised = (pixels - torch.tensor(PIXELS.mean)) / torch.tensor(PIXELS.std)
    return normalised.permute(0, 3, 1, 2).float()


def maps_of(net, view, tmp_path, batch_size=3):
    return body_pass(net, view, PIXELS, batch_size=batch_size, device=CPU, scratch=tmp_path)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_a_pass_keeps_the_maps_of_every_image(net, view, x, tmp_path, batch_size):
    with maps_of(net, view, tmp_path, batch_size) as maps, torch.no_grad():
        assert maps.tensor.shape == (COUNT, 320, 2, 2)
        torch.testing.assert_close(maps.tensor, backbone.body(net, x), rtol=1e-4, atol=1e-4)


def test_a_pass_leaves_the_net_in_eval_mode_and_as_it_was(net, view, tmp_path):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    net.train()
    with maps_of(net, view, tmp_path):
        assert not net.training
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_maps_have_all_blocks_of_a_file_without_a_name(net, view, tmp_path):
    """So that a full disk kills no process, and a process that is killed leaves nothing."""
    scratch = tmp_path / "deep" / "scratch"
    with maps_of(net, view, scratch) as maps:
        assert scratch.is_dir() and not list(scratch.iterdir())
        file = os.fstat(maps._file.fileno())
        assert file.st_dev == scratch.stat().st_dev
        assert file.st_size == COUNT * 320 * 2 * 2 * 4 <= 512 * file.st_blocks
    assert maps._file.closed


def test_a_disk_without_room_for_maps_is_told_and_kills_nothing(net, view, tmp_path, monkeypatch):
    def refuse(descriptor, offset, size):
        assert (offset, size) == (0, COUNT * 320 * 2 * 2 * 4)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DiskFullError, match=f"The disk of {tmp_path} is full") as raised:
        maps_of(net, view, tmp_path)
    assert is_one_sentence(str(raised.value))


def test_a_pass_that_fails_leaves_no_file(net, view, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(backbone, "body", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        maps_of(net, view, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_norm_statistics_are_those_over_all_images_whatever_the_batch(
    net, view, x, tmp_path, batch_size
):
    with torch.no_grad():
        z = net.conv_head(backbone.body(net, x)).double().transpose(0, 1).flatten(1)
    with maps_of(net, view, tmp_path) as maps:
        found = norm_statistics(net, maps, batch_size=batch_size, device=CPU)
    assert found.mean.dtype == found.var.dtype == torch.float64
    torch.testing.assert_close(found.mean, z.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.var, z.var(1, correction=1), rtol=1e-5, atol=1e-5)


def test_norm_statistics_are_what_a_batch_norm_records_of_one_batch_of_all(net, view, x, tmp_path):
    with maps_of(net, view, tmp_path) as maps:
        set_norm(net, norm_statistics(net, maps, batch_size=2, device=CPU))
    found = net.bn2.running_mean.clone(), net.bn2.running_var.clone()
    net.bn2.train()
    net.bn2.momentum = 1.0
    with torch.no_grad():
        net(x)
    torch.testing.assert_close(found, (net.bn2.running_mean, net.bn2.running_var))


def test_variances_far_from_zero_do_not_cancel(tmp_path):
    """A mean of 1000 at a deviation of 0.01: lost in float32 sums of squares."""
    values = 1000 + 0.01 * torch.randn(500, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    maps = Maps(values, None)  # type: ignore[arg-type]
    found = norm_statistics(net_of(), maps, batch_size=64, device=CPU)
    wanted = values.double().transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(found.var, wanted, rtol=1e-3, atol=0)


def test_one_value_a_channel_has_no_negative_or_infinite_variance():
    maps = Maps(torch.full((1, 4, 1, 1), 0.1), None)  # type: ignore[arg-type]
    found = norm_statistics(net_of(), maps, batch_size=8, device=CPU)
    assert torch.equal(found.var, torch.zeros(4, dtype=torch.float64))


def test_set_norm_changes_two_buffers_and_nothing_else(net):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    width = net.bn2.num_features
    mean, var = torch.randn(width).double(), torch.rand(width).double()
    set_norm(net, NormStatistics(mean, var))
    after = net.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, t in after.items() if not torch.equal(before[name], t)}
    assert changed == {"bn2.running_mean", "bn2.running_var"}
    assert torch.equal(after["bn2.running_mean"], mean.float())
    assert torch.equal(after["bn2.running_var"], var.float())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("moved", [False, True])
def test_features_are_the_classifiers_input(net, view, x, tmp_path, batch_size, moved):
    with maps_of(net, view, tmp_path) as maps:
        if moved:
            set_norm(net, norm_statistics(net, maps, batch_size=4, device=CPU))
        found = features_of(net, maps, batch_size=batch_size, device=CPU)
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(x), pre_logits=True)
        logits = net(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(net.classifier(found), logits, rtol=1e-4, atol=1e-4)


def address(array):
    return array.__array_interface__["data"][0]


def mapped(path):
    """The addresses at which this process has mapped the file."""
    ranges = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            if line.rstrip().endswith(str(path)):
                low, high = line.split()[0].split("-")
                ranges.append((int(low, 16), int(high, 16)))
    return ranges


def test_features_come_back_from_arrow_without_a_copy(tmp_path):
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    labels = np.array([3, 1, 2, 0, 1, 2])
    path = tmp_path / "cell" / "train.arrow"
    write_features(path, features, labels)
    found, found_labels = read_features(path)
    np.testing.assert_array_equal(found, features.numpy())
    np.testing.assert_array_equal(found_labels, labels)
    assert [str(found.dtype), str(found_labels.dtype)] == ["float32", "int64"]
    assert not found.flags.writeable
    for array in (found, found_labels):
        assert any(low <= address(array) < high for low, high in mapped(path))
    assert [p.name for p in path.parent.iterdir()] == ["train.arrow"]


def test_features_of_before_stay_readable_when_the_file_is_replaced(tmp_path):
    path = tmp_path / "train.arrow"
    write_features(path, torch.ones(3, 2), np.zeros(3, np.int64))
    old, _ = read_features(path)
    write_features(path, torch.zeros(9, 2), np.zeros(9, np.int64))
    assert old.sum() == 6
    assert read_features(path)[0].shape == (9, 2)
