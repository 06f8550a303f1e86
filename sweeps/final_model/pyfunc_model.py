"""How MLflow runs the finished model: image files in, labels and probabilities out.

A copy of this file, and of the decoder that it imports, lies in the model's own folder. It must run
where neither this package nor PyTorch is: ONNX Runtime computes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from PIL import Image

from trainables.data.pixels import BadImageError, to_rgb

BATCH = 32  # images at once: bounds the memory


def _load_pyfunc(path: str, model_config: Mapping[str, Any]) -> ImageModel:
    """MLflow's loader: the model in the folder ``path``.

    Args:
        model_config: "cache_side", px: larger images are reduced to it first, as the sweep did.
    """
    return ImageModel(Path(path), int(model_config["cache_side"]))


class ImageModel:
    """Pixels are resized, cropped and normalised as they were when the sweep scored the model."""

    def __init__(self, folder: Path, cache_side: int):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data = config["pretrained_cfg"]
        self._labels: list[str] = config["label_names"]
        self._cache_side = cache_side
        self._res = int(data["test_input_size"][-1])
        self._side = int(self._res / data["test_crop_pct"])
        self._resampling = Image.Resampling[data["interpolation"].upper()]
        self._mean = np.asarray(data["mean"], np.float32) * 255
        self._std = np.asarray(data["std"], np.float32) * 255
        self._session = onnxruntime.InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"]
        )

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """
        Args:
            model_input: the column "image" holds, in any mixture, the bytes of image files (or
                their base64 as a str), and (H, W, 3) uint8 RGB arrays (or nested lists of them).

        Returns:
            A row for each image: label (str), probability (float), and, in the order of
            labels.txt, probabilities and logits (lists of float).

        Raises:
            ValueError: an image cannot be read; the message says which, counted from 0.
        """
        index, images = model_input.index, list(model_input["image"])
        # MLflow folds the JSON {"inputs": ["...", "..."]} into one row.
        if len(images) == 1 and isinstance(images[0], list) and _all_text(images[0]):
            images = images[0]
            index = pd.RangeIndex(len(images))
        logits = np.empty((len(images), len(self._labels)), np.float32)
        for start in range(0, len(images), BATCH):
            rows = range(start, min(start + BATCH, len(images)))
            pixels = np.stack([self._square(row, images[row]) for row in rows])
            logits[rows.start : rows.stop] = self._logits(pixels)
        return self._table(logits, index)

    def _square(self, row: int, image: Any) -> np.ndarray:
        """(R, R, 3) uint8."""
        try:
            rgb = to_rgb(_file_bytes(image), self._cache_side)
        except (BadImageError, ValueError) as error:
            raise ValueError(f'The "image" in row {row}: {error}.') from error
        height, width = rgb.shape[:2]
        longer = int(self._side * max(height, width) / min(height, width))
        size = (self._side, longer) if width <= height else (longer, self._side)
        picture = Image.fromarray(rgb)
        if picture.size != size:
            picture = picture.resize(size, self._resampling)
        left = round((picture.width - self._res) / 2)
        top = round((picture.height - self._res) / 2)
        return np.asarray(picture.crop((left, top, left + self._res, top + self._res)))

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        """(N, R, R, 3) uint8 -> (N, C) float32."""
        normalised = (pixels.astype(np.float32) - self._mean) / self._std
        batch = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
        logits: np.ndarray = self._session.run(["logits"], {"pixels": batch})[0]
        return logits

    def _table(self, logits: np.ndarray, index: pd.Index) -> pd.DataFrame:
        exact = logits.astype(np.float64)
        odds = np.exp(exact - exact.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        best = logits.argmax(axis=1)
        columns = {
            "label": [self._labels[i] for i in best],
            "probability": probabilities[np.arange(len(best)), best],
            "probabilities": probabilities.tolist(),
            "logits": exact.tolist(),
        }
        return pd.DataFrame(columns, index=index)


def _all_text(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _file_bytes(image: Any) -> bytes:
    """The bytes of an image file; an array becomes one, without loss."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        return base64.b64decode(image)
    if not isinstance(image, (list, np.ndarray)):
        raise ValueError(f"{type(image).__name__} is neither bytes, base64 nor an array")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape} is not (height, width, 3)")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise ValueError("its values are not whole numbers from 0 to 255")
    file = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(file, "PPM")
    return file.getvalue()
