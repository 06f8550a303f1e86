"""Bytes on a disk, against files that are really written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.fixres.features import body_pass, features_pass, write_features
from trainables.models import backbone, variants
from trainables.profiling.disk_use import (
    MIN_PREFIX,
    checkpoint_bytes,
    feature_bytes,
    map_bytes,
    prefix,
)
from trainables.storage.files import write_tensors

COUNT, CLASSES = 50, 7


@pytest.mark.parametrize(("name", "res"), [("lite0", 32), ("b0", 72)])
def test_files_have_the_sizes_that_are_counted(name: str, res: int, tmp_path: Path) -> None:
    variant, device = variants.get(name), torch.device("cpu")
    net, pixels = backbone.build(variant, CLASSES), variants.preprocessing(variant)
    view = np.zeros((COUNT, res, res, 3), np.uint8)
    with body_pass(net, view, pixels, batch_size=25, device=device, scratch=tmp_path) as maps:
        assert os.fstat(maps._file.fileno()).st_size == COUNT * map_bytes(name, res, 4)
    features = features_pass(net, view, pixels, batch_size=25, device=device)
    write_features(tmp_path / "train.arrow", features, np.zeros(COUNT, np.int64))
    write_features(tmp_path / "shard.arrow", features.half(), np.zeros(COUNT, np.int64))
    write_tensors(tmp_path / "trunk.safetensors", net.state_dict())
    counted = {
        "shard.arrow": COUNT * feature_bytes(name, 2),
        "train.arrow": COUNT * feature_bytes(name),
        "trunk.safetensors": checkpoint_bytes(name, CLASSES),
    }
    for file, size in counted.items():
        assert size <= (tmp_path / file).stat().st_size <= 1.02 * size  # with its header


def test_as_many_maps_are_kept_as_are_allowed_and_none_says_all() -> None:
    each = map_bytes("b0", 320, 4)
    assert prefix("b0", 320, 1000 * each / 1e9, 1001) == 1000
    assert prefix("b0", 320, 1000 * each / 1e9, 1000) is None
    assert prefix("b0", 320, 1e-9, 10**6) == MIN_PREFIX
    assert prefix("b0", 320, 1e-9, MIN_PREFIX) is None
