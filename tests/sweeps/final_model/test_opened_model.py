"""What Python opens of a finished sweep is the net that its files hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import timm
import torch

from sweeps import SweepResult, SweepSpec


def test_the_net_is_that_of_the_model_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    nothing: Any = None
    net = SweepResult(out=tmp_path, spec=SweepSpec(), outcome=nothing).model()
    config = timm.data.resolve_model_data_config(net, use_test_size=True)
    pixels = torch.rand(2, *config["input_size"])
    with torch.inference_mode():
        wanted = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(pixels)
        torch.testing.assert_close(net(pixels), wanted, rtol=0, atol=0)
    assert not net.training and wanted.std() > 0
