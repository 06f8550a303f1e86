"""Images as they are given to the finished model in MLflow, and what it answers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageCms


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


def logits(predicted: pd.DataFrame) -> np.ndarray:
    return np.array(predicted["logits"].to_list())


def other_colours() -> bytes:
    """A colour profile by which red is green, and green is red; the model passes over it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")


def turned(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(pixels, "JPEG", exif=exif)
