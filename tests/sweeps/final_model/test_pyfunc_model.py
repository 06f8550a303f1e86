"""What the model predicts in MLflow is what timm, and the sweep, predict."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image, ImageOps
from torch import nn

from sweeps.final_model.mlflow_flavor import write_mlflow_model
from sweeps.final_model.pyfunc_model import BATCH
from tests.sweeps.final_model.image_tables import file_of, logits, noise, table, turned
from trainables.data.loader import normalize_on_device
from trainables.data.pixels import to_rgb
from trainables.models import variants
from trainables.transforms.eval_transform import EvalTransform


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
    predicted = model.predict(table(*pictures))
    assert expected.std(dim=0).min() > 0.1  # they are not all alike
    np.testing.assert_allclose(logits(predicted), expected.numpy(), atol=1e-4, rtol=1e-5)
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert predicted["label"].to_list() == [labels[i] for i in expected.argmax(dim=1)]
    probabilities = np.array(predicted["probabilities"].to_list())
    np.testing.assert_allclose(probabilities, expected.softmax(dim=1).numpy(), atol=1e-4)
    np.testing.assert_array_equal(predicted["probability"], probabilities.max(axis=1))


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
    pixels = torch.from_numpy(np.stack([transform(to_rgb(file, 80)) for file in files]))
    with torch.inference_mode():
        expected = net(normalize_on_device(pixels, preprocessing, torch.device("cpu"))).numpy()
    predicted = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(table(*files))
    np.testing.assert_allclose(logits(predicted), expected, atol=1e-4, rtol=1e-5)


def test_sees_deep_images_and_long_strips_as_the_sweep_did(folder: Path, tmp_path: Path) -> None:
    """A dark picture of 12 bits is not stretched: white is that of the images in training."""
    values = noise(70, 90, 1, seed=4)[..., 0].astype(np.uint16) * 4
    strip = np.full((1, 20000, 3), 90, np.uint8)
    shutil.copytree(folder, tmp_path / "model")
    whites = {"16-bit grey PNG": 4095}
    write_mlflow_model(tmp_path / "model", example=b"", whites=whites)
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    files = [file_of(values), strip]
    grey = np.floor(values * 255.0 / 4095 + 0.5).astype(np.uint8)[..., None].repeat(3, axis=2)
    same = [file_of(grey), np.full((64, 64, 3), 90, np.uint8)]
    np.testing.assert_allclose(
        logits(served.predict(table(*files))), logits(served.predict(table(*same))), atol=1e-4
    )
    with pytest.raises(ValueError, match="values above 4,095"):
        served.predict(table(file_of(values * 16)))


def test_the_temperature_is_of_the_probabilities_alone(
    folder: Path, model: Any, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert "temperature" not in config
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"temperature": 2.5}))
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    images = table(*(file_of(noise(64, 64, seed=i)) for i in range(4)))
    plain, scaled = model.predict(images), served.predict(images)
    np.testing.assert_array_equal(logits(plain), logits(scaled))
    assert plain["label"].tolist() == scaled["label"].tolist()
    for found, temperature in ((plain, 1.0), (scaled, 2.5)):
        expected = torch.softmax(torch.tensor(logits(found)).double() / temperature, dim=1)
        given = np.array(found["probabilities"].tolist())
        np.testing.assert_allclose(given, expected.numpy(), rtol=1e-12)
        np.testing.assert_allclose(found["probability"], given.max(axis=1))


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
