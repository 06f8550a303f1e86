"""The finished folder as an MLflow model: what it predicts is what timm, and the sweep, predict."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import infer_and_parse_data
from PIL import Image, ImageOps
from torch import nn

from sweeps.final_model.mlflow_flavor import write_mlflow_model
from sweeps.final_model.pyfunc_model import BATCH
from trainables.data.loader import normalize_on_device
from trainables.data.pixels import to_rgb
from trainables.export.portable_formats import write_onnx
from trainables.export.timm_format import write_timm
from trainables.models import variants
from trainables.transforms.eval_transform import EvalTransform

CLASSES = ("Äpfel", "pears & plums", "0", "x", "y")
TRANSFORM = EvalTransform(test_res=64, crop_pct=0.875, interpolation="bicubic")
# Python runs this first: neither PyTorch, timm nor this package, not even installed for editing.
WITHOUT_US = """
import sys
from pathlib import Path
sys.modules |= dict.fromkeys(("torch", "torchvision", "timm", "sweeps", "safetensors"))
sys.path[:] = [p for p in sys.path if not (Path(p or ".") / "trainables").is_dir()]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(getattr(f, "__module__", f))]
"""


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What loading a model adds to the path of modules is taken back."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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
    write_onnx(folder / "model.onnx", net, TRANSFORM.test_res, {})
    write_mlflow_model(folder, example=file_of(noise(24, 24), "JPEG"))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return mlflow.pyfunc.load_model(str(folder))


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Blotches, which resizing leaves something of: (H, W, channels) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, channels), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(c).resize((width, height))) for c in coarse.transpose(2, 0, 1)],
        axis=2,
    )


def file_of(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def table(*images: Any) -> pd.DataFrame:
    return pd.DataFrame({"image": list(images)})


def logits(found: pd.DataFrame) -> np.ndarray:
    return np.array(found["logits"].to_list())


def turned(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(pixels, "JPEG", exif=exif)


# --- what is predicted ------------------------------------------------------------------------


def test_predicts_what_timm_does(folder: Path, model: Any) -> None:
    see_through = noise(80, 90, 4)
    see_through[..., 3] = np.where(see_through[..., 3] > 127, 255, 0)
    pictures = {
        file_of(noise(100, 80, seed=1)): "RGB",
        file_of(noise(80, 300, seed=2), "JPEG"): "wide",
        file_of(noise(500, 70, seed=3), "JPEG", quality=40): "tall",
        file_of(noise(30, 20, seed=4)): "enlarged",
        file_of(noise(73, 73, seed=5)): "no resizing",
        file_of(noise(90, 90, 1, seed=6)[..., 0]): "grey",
        file_of(noise(90, 90, 1, seed=7)[..., 0].astype(np.uint16) * 257): "grey, 16 bits",
        file_of(see_through): "RGBA",
        turned(noise(60, 120, seed=8), 6): "turned",
    }
    timms = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(timms, use_test_size=True)
    transform = timm.data.create_transform(**config)

    def opened(file: bytes, kind: str) -> Image.Image:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        if kind == "RGBA":
            over_white = np.where(see_through[..., 3:] == 255, see_through[..., :3], 255)
            return Image.fromarray(over_white.astype(np.uint8))
        if kind == "grey, 16 bits":
            return Image.fromarray((np.asarray(picture) // 257).astype(np.uint8)).convert("RGB")
        return picture.convert("RGB")

    batch = torch.stack([transform(opened(*item)) for item in pictures.items()])
    with torch.inference_mode():
        expected = timms(batch)
    found = model.predict(table(*pictures))
    assert expected.std(dim=0).min() > 0.1  # they are not all alike
    np.testing.assert_allclose(logits(found), expected.numpy(), atol=1e-4, rtol=1e-5)
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert found["label"].to_list() == [labels[i] for i in expected.argmax(dim=1)]
    probabilities = np.array(found["probabilities"].to_list())
    np.testing.assert_allclose(probabilities, expected.softmax(dim=1).numpy(), atol=1e-4)
    np.testing.assert_array_equal(found["probability"], probabilities.max(axis=1))


@pytest.mark.parametrize("variant", ["lite0", "b0"])
def test_predicts_what_the_sweep_scored(
    folder: Path, net: nn.Module, variant: str, tmp_path: Path
) -> None:
    """Images larger than the cache keeps them too, with each variant's way to normalise."""
    transform = EvalTransform(test_res=64, crop_pct=1.0, interpolation="bilinear")
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    preprocessing = variants.preprocessing(variants.get(variant))
    config["pretrained_cfg"] |= {
        "mean": preprocessing.mean, "std": preprocessing.std, "test_crop_pct": 1.0,
        "interpolation": "bilinear",
    }  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_mlflow_model(tmp_path / "model", example=b"", cache_side=80)
    files = [
        file_of(noise(400, 530, seed=1), "JPEG"),
        file_of(noise(170, 90, seed=2)),
        turned(noise(200, 300, seed=3), 8),
    ]
    pixels = np.stack([transform(to_rgb(file, 80)) for file in files])
    with torch.inference_mode():
        expected = net(normalize_on_device(pixels, preprocessing, torch.device("cpu"))).numpy()
    found = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(table(*files))
    np.testing.assert_allclose(logits(found), expected, atol=1e-4, rtol=1e-5)


def test_whichever_way_an_image_comes_it_is_the_same(model: Any) -> None:
    pixels = noise(70, 110)
    file = file_of(pixels)
    text = base64.b64encode(file).decode()
    frames = [
        table(file),
        table(pixels),
        table(text),
        table(pixels.tolist()),
        table(pixels.astype(np.int64)),
        {"image": [file]},
        {"image": pixels[None]},
    ]
    requests = [
        {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
        {"dataframe_records": [{"image": text}]},
        {"dataframe_records": [{"image": pixels.tolist()}]},
        {"inputs": {"image": [text]}},
        {"inputs": [text]},
        {"instances": [{"image": text}]},
    ]
    schema = model.metadata.get_input_schema()
    parsed = [infer_and_parse_data(json.loads(json.dumps(body)), schema) for body in requests]
    found = [model.predict(data) for data in [*frames, *parsed]]
    for one in found[1:]:
        pd.testing.assert_frame_equal(one, found[0])


def test_a_request_of_many_images_as_a_plain_list(model: Any) -> None:
    files = [file_of(noise(64, 64, seed=i)) for i in range(3)]
    body = {"inputs": [base64.b64encode(file).decode() for file in files]}
    data = infer_and_parse_data(body, model.metadata.get_input_schema())
    pd.testing.assert_frame_equal(model.predict(data), model.predict(table(*files)))


def test_rows_do_not_depend_on_their_neighbours_and_keep_their_index(model: Any) -> None:
    images = [noise(64, 64, seed=i) for i in range(BATCH + 2)]
    index = [f"file {i}" for i in range(len(images))]
    together = model.predict(pd.DataFrame({"image": images}, index=index))
    assert list(together.index) == index
    some = [0, BATCH - 1, BATCH, BATCH + 1]
    alone = np.concatenate([logits(model.predict(table(images[i]))) for i in some])
    np.testing.assert_allclose(logits(together)[some], alone, atol=1e-5)
    assert len(model.predict(pd.DataFrame({"image": []}))) == 0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a", "."),
        (b"no image", "not an image of a known format"),
        (file_of(noise(64, 64))[:300], "."),
        ("no base64!", "."),
        (None, "NoneType is neither bytes, base64 nor an array"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "whole numbers from 0 to 255"),
        (np.full((4, 4, 3), 256), "whole numbers from 0 to 255"),
        ([[[1, 2, 3]], [[1, 2]]], "."),
    ],
)
def test_a_bad_image_is_refused_by_its_row(model: Any, image: Any, reason: str) -> None:
    good = file_of(noise(64, 64))
    with pytest.raises(ValueError, match=f'^The "image" in row 33: .*{reason}'):
        model.predict(table(*[good] * 33, image, good))


def test_another_column_is_refused(model: Any) -> None:
    with pytest.raises(MlflowException, match="image"):
        model.predict(pd.DataFrame({"picture": [b""]}))


# --- the folder -------------------------------------------------------------------------------


def test_the_same_folder_gives_the_same_bytes_and_nothing_is_kept_twice(
    folder: Path, tmp_path: Path
) -> None:
    given = ("model.safetensors", "config.json", "labels.txt", "model.onnx")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in given:
            shutil.copy(folder / file, tmp_path / name)
        write_mlflow_model(tmp_path / name, example=file_of(noise(24, 24), "JPEG"))
    write_mlflow_model(tmp_path / "b", example=file_of(noise(24, 24), "JPEG"))  # again
    a, b = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert a == b
    added = {path: content for path, content in a.items() if path.name not in given}
    assert sum(map(len, added.values())) < 40_000
    assert str(tmp_path).encode() not in b"".join(added.values())
    for file in given:
        assert a[Path(file)] == (folder / file).read_bytes()


def test_the_example_and_the_environment_are_mlflows(folder: Path, model: Any) -> None:
    assert isinstance(model.input_example, pd.DataFrame)
    expected = model.predict(table(file_of(noise(24, 24), "JPEG")))
    pd.testing.assert_frame_equal(model.predict(model.input_example), expected)
    pins = Path(mlflow.pyfunc.get_model_dependencies(str(folder))).read_text(encoding="utf-8")
    assert {pin.partition("==")[0] for pin in pins.split()} == {
        "mlflow", "numpy", "onnxruntime", "pandas", "pillow"
    }  # fmt: skip
    outputs = model.metadata.get_output_schema()
    assert outputs.input_names() == list(expected.columns)


@pytest.mark.slow
def test_the_command_line_runs_it_where_there_is_nothing_of_ours(
    folder: Path, model: Any, tmp_path: Path
) -> None:
    files = [file_of(noise(64, 90, seed=i), "JPEG") for i in range(2)]
    data = [[base64.b64encode(file).decode()] for file in files]
    body = {"dataframe_split": {"columns": ["image"], "data": data}}
    (tmp_path / "request.json").write_text(json.dumps(body))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(WITHOUT_US)
    command = ["-m", "mlflow", "models", "predict", "-m", str(folder), "--env-manager", "local"]
    subprocess.run(
        [sys.executable, *command, "-t", "json", "-i", str(tmp_path / "request.json"),
         "-o", str(tmp_path / "answer.json")],
        cwd="/", check=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "first")},
    )  # fmt: skip
    answer = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    found, expected = pd.DataFrame(answer), model.predict(table(*files))
    assert found["label"].to_list() == expected["label"].to_list()
    np.testing.assert_allclose(logits(found), logits(expected), atol=1e-5)
