"""A small model in its folder, with its MLflow form."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
import timm
import torch
from torch import nn

from sweeps.final_model.mlflow_flavor import write_mlflow_model
from tests.sweeps.final_model.image_tables import file_of, noise
from trainables.export.portable_formats import export_onnx, trace, write_onnx
from trainables.export.timm_format import write_timm
from trainables.transforms.eval_transform import EvalTransform

CLASSES = ("Äpfel", "pears & plums", "0", "x", "y")
TRANSFORM = EvalTransform(test_res=64, crop_pct=0.875, interpolation="bicubic")


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What loading a model adds to the path of modules is taken back."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def net() -> nn.Module:
    """Random weights whose batch norms know what they see, so that logits tell images apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = timm.create_model("tf_efficientnet_lite0", num_classes=len(CLASSES))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            net.train()(torch.randn(8, 3, 64, 64))
            net.get_classifier().weight.normal_(std=0.1)
    trained: nn.Module = net.eval()
    return trained


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, net: nn.Module) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_timm(
        folder,
        net.state_dict(),
        variant="lite0",
        classes=CLASSES,
        train_res=32,
        transform=TRANSFORM,
    )
    write_onnx(folder / "model.onnx", export_onnx(trace(net, TRANSFORM.test_res)), {})
    write_mlflow_model(folder, example=file_of(noise(24, 24), "JPEG"))
    return folder


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    return mlflow.pyfunc.load_model(str(folder))
