"""Run the finished model in MLflow: image files in, labels and probabilities out.

A copy of this file, and of what it imports of the project, lies in the model's own folder. It must
run where neither this project nor PyTorch is installed: ONNX Runtime computes the logits.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from trainables.data.pixels import BadImageError, to_rgb
from trainables.transforms.centre_crop import resize_and_crop

# Otherwise ONNX Runtime calls its makers, and keeps an id of the device in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

# Images that the net sees at once, which bounds the memory.
BATCH = 32


def _load_pyfunc(path: str, model_config: Mapping[str, Any]) -> ImageModel:
    """Load the model from the folder ``path``; MLflow calls this by its name.

    Args:
        model_config: "cache_side", the shorter side (px) that larger images are reduced to before
            anything else, as in the sweep; and "whites", if images of the sweep had more than eight
            bits: the value that is white by kind of image.
    """
    whites = model_config.get("whites", {})
    return ImageModel(Path(path), int(model_config["cache_side"]), whites)


class ImageModel:
    """The model with its preprocessing, the same as the sweep scored the model with."""

    def __init__(self, folder: Path, cache_side: int, whites: Mapping[str, int]):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data = config["pretrained_cfg"]
        self.labels: list[str] = config["label_names"]
        self._temperature = float(config.get("temperature", 1.0))
        self._cache_side, self._whites = cache_side, whites
        self._res = int(data["test_input_size"][-1])
        self._side = int(self._res / data["test_crop_pct"])
        self._resampling = Image.Resampling[data["interpolation"].upper()]
        self._mean = np.asarray(data["mean"], np.float32) * 255
        self._std = np.asarray(data["std"], np.float32) * 255
        self._session = onnxruntime.InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"]
        )

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Classify images.

        Args:
            model_input: the column "image" holds, in any mixture, the bytes of image files (or
                their base64 as a str), and (H, W, 3) uint8 RGB arrays (or nested lists of them).

        Returns:
            A row for each image: label (str), probability (float), and, in the order of
            labels.txt, probabilities and logits (lists of float). The probabilities are those of
            the logits over the temperature that config.json names.

        Raises:
            ValueError: an image cannot be read; the message says which, counted from 0.
        """
        index, images = model_input.index, list(model_input["image"])
        # MLflow folds the JSON {"inputs": ["...", "..."]} into one row.
        if len(images) == 1 and isinstance(images[0], list) and _all_text(images[0]):
            images = images[0]
            index = pd.RangeIndex(len(images))
        logits = np.empty((len(images), len(self.labels)), np.float32)
        for start in range(0, len(images), BATCH):
            rows = range(start, min(start + BATCH, len(images)))
            pixels = np.stack([self._square(row, images[row]) for row in rows])
            logits[rows.start : rows.stop] = self.logits(pixels)
        return self._table(logits, index)

    def square(self, image: Any) -> np.ndarray:
        """Decode, resize and crop an image, given as in :meth:`predict`: (R, R, 3) uint8 RGB.

        Raises:
            BadImageError, ValueError: it cannot be read.
        """
        rgb = to_rgb(_file_bytes(image), self._cache_side, self._whites)
        return resize_and_crop(Image.fromarray(rgb), self._side, self._res, self._resampling)

    def _square(self, row: int, image: Any) -> np.ndarray:
        try:
            return self.square(image)
        except (BadImageError, ValueError) as error:
            raise ValueError(f'The "image" in row {row}: {error}.') from error

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise pixels (N, R, R, 3) uint8 and run the net: (N, C) float32."""
        normalised = (pixels.astype(np.float32) - self._mean) / self._std
        batch = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
        logits: np.ndarray = self._session.run(["logits"], {"pixels": batch})[0]
        return logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Make probabilities of logits, over the model's temperature: (N, C) float64."""
        exact = logits.astype(np.float64)
        odds = np.exp((exact - exact.max(axis=1, keepdims=True)) / self._temperature)
        found: np.ndarray = odds / odds.sum(axis=1, keepdims=True)
        return found

    def _table(self, logits: np.ndarray, index: pd.Index) -> pd.DataFrame:
        probabilities = self.probabilities(logits)
        best = logits.argmax(axis=1)
        columns = {
            "label": [self.labels[i] for i in best],
            "probability": probabilities[np.arange(len(best)), best],
            "probabilities": probabilities.tolist(),
            "logits": logits.astype(np.float64).tolist(),
        }
        return pd.DataFrame(columns, index=index)


def _all_text(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _file_bytes(image: Any) -> bytes:
    """Return the bytes of an image file; an array is encoded as one, without loss."""
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
