"""A few steps tell how long an epoch takes; nothing of them stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.data.image_set import ImageSet
from trainables.profiling import speed_probe
from trainables.profiling.speed_probe import time_training

pytestmark = pytest.mark.slow


def test_steps_are_timed_as_those_of_training(
    tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_probe, "LEAST_S", 0.0)
    timed = time_training("lite0", 32, 4, tiny_images, tmp_path, torch.get_num_threads())
    (timing,) = timed.timings
    (one,) = timing.work.passes
    assert one.train and one.batch == 4 and one.images == 4 * (speed_probe.LEAST_STEPS + 1)
    assert timing.seconds > 0 and timed.device.startswith("CPU") != timed.on_gpu
    assert one.gmacs > 0 and one.layers > 40
    assert not list(tmp_path.iterdir())
