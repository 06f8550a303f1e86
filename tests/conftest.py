"""What tests of several modules share: a few small pictures, and weights that behave."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.storing import s3, s3_of_session  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from trainables.data.image_set import ImageSet

# Ray's processes give way to others: beside another file's tests they would stand still.
os.environ.setdefault("RAY_worker_niceness", "0")

TINTS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
COUNTS = {"train": (8, 7, 7), "val": (5, 5, 5), "test": (3, 3, 3)}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets this small wait for their threads, on busy cores a hundred times as long."""
    torch = sys.modules.get("torch")  # imported by those tests that need it
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Decoded JPEGs of three classes, upright and oblong: 22 train, 15 val, 9 test."""
    from trainables.data.decode import prepare
    from trainables.data.options import ReadOptions

    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, counts in COUNTS.items():
        for (name, tint), count in zip(TINTS.items(), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(48, 96, 2)
                noise = rng.integers(0, 256, (height, width, 3))
                picture = (0.7 * noise + 0.3 * np.array(tint)).astype(np.uint8)
                Image.fromarray(picture).save(folder / split / name / f"{i}.jpg", quality=90)
    return prepare(folder, tmp_path_factory.mktemp("decoded"), ReadOptions())


@pytest.fixture(scope="session")
def lite0_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights for lite0 whose batch norms know what they see."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("tf_efficientnet_lite0", num_classes=5)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            net.train()(torch.randn(16, 3, 64, 64))
    save_file(net.state_dict(), folder / "lite0.safetensors")
    return folder
