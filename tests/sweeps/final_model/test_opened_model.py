"""What Python opens of a finished sweep is the net that its files hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from sweeps import SweepResult, SweepSpec
from trainables.export.mirror_mark import MIRRORS


@pytest.mark.parametrize("mirrors", [False, True])
def test_the_net_is_that_of_the_model_folder(folder: Path, tmp_path: Path, mirrors: bool) -> None:
    """Where the choice averages over the mirror image, so does the net that Python opens."""
    shutil.copytree(folder, tmp_path / "model")
    if mirrors:
        config_file = tmp_path / "model" / "config.json"
        told = json.loads(config_file.read_text(encoding="utf-8")) | {MIRRORS: True}
        config_file.write_text(json.dumps(told), encoding="utf-8")
    nothing: Any = None
    net = SweepResult(out=tmp_path, spec=SweepSpec(), outcome=nothing).model()
    config = timm.data.resolve_model_data_config(net, use_test_size=True)
    pixels = torch.rand(2, *config["input_size"])
    with torch.inference_mode():
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        wanted = (plain(pixels) + plain(pixels.flip(3))) / 2 if mirrors else plain(pixels)
        tolerance = 1e-4 if mirrors else 0.0  # batches of other sizes round differently
        torch.testing.assert_close(net(pixels), wanted, rtol=tolerance, atol=tolerance)
    assert not net.training and wanted.std() > 0
