"""Say what the page must know of the model: how to prepare images, and what its outputs are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeps.final_model.written_model import CONFIG_FILE, ONNX_FILE, reading_config
from trainables.errors import UserError, printable
from trainables.transforms.resolution import resize_side

MAX_BYTES = 100_000_000  # a page that makes a browser load more is none that one waits for


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What ``preprocess.mjs`` and ``demo.mjs`` read, by the same names but for the underscores."""

    name: str
    """The architecture, as timm calls it."""
    res: int
    """Side of the images that the net takes, px."""
    side: int
    """Short side that images are resized to, before the crop, px."""
    cache_side: int
    """Short side that larger images are reduced to before anything else, px."""
    interpolation: str
    mean: list[float]
    """Of each channel, in units of a byte, as float32."""
    std: list[float]
    labels: list[str]
    temperature: float
    onnx_bytes: int
    """Size of the ONNX file."""

    def as_json(self) -> bytes:
        """Write the settings for the page."""
        return json.dumps({_camel(name): value for name, value in asdict(self).items()}).encode()


def page_settings(folder: Path) -> PageSettings:
    """Read the settings of a finished model.

    Raises:
        UserError: the folder is none, or a page in a browser cannot do what the model does.
    """
    reading = reading_config(folder)
    size = (folder / ONNX_FILE).stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"{printable(str(folder / ONNX_FILE))} has {size / 1e6:.0f} MB, and --demo takes "
            f"{MAX_BYTES / 1e6:.0f} MB at most: choose a smaller variant by select_best.py "
            "--max-params-m, or serve the model by mlflow models serve."
        )
    if reading.get("whites"):
        raise UserError(
            f"{printable(str(folder))} is of images with more than eight bits a sample, which a "
            "browser reads otherwise than the sweep did: give the files to fixres-predict without "
            "--demo."
        )
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    data = config["pretrained_cfg"]
    res = int(data["test_input_size"][-1])
    return PageSettings(
        name=config["architecture"],
        res=res,
        side=resize_side(res, data["test_crop_pct"]),
        cache_side=int(reading["cache_side"]),
        interpolation=data["interpolation"],
        mean=_of_bytes(data["mean"]),
        std=_of_bytes(data["std"]),
        labels=config["label_names"],
        temperature=float(config.get("temperature", 1.0)),
        onnx_bytes=size,
    )


def _of_bytes(shares: Any) -> list[float]:
    """Scale shares of white to bytes in float32, as the model does."""
    scaled: list[float] = (np.asarray(shares, np.float32) * 255).tolist()
    return scaled


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
