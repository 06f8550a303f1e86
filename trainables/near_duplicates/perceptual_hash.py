"""Hash what an image looks like: images that look alike differ in few of 256 bits.

A "pHash": signs of the lowest frequencies of the image's grey thumbnail (cosine transform), after
Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

THUMBNAIL = 32  # px, each side
SAMPLED = 128  # px, each side, at least, of what the thumbnail is made from
FREQUENCIES = 16  # lowest, in each direction: 16 x 16 bits
COARSE = 8  # the first word holds the lowest 8 x 8 of them
WORDS = FREQUENCIES**2 // 64
FLAT = 2.0  # grey levels: a thumbnail that varies by less (standard deviation) shows nothing


def _cosines() -> np.ndarray:
    """The rows of the cosine transform (DCT-II) that are used, (FREQUENCIES, THUMBNAIL)."""
    places = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL
    rows: np.ndarray = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places)
    return rows


def _coarse_first() -> np.ndarray:
    """The order of the bits: those of the lowest frequencies, which make the first word, first."""
    rows, columns = np.divmod(np.arange(FREQUENCIES**2), FREQUENCIES)
    return np.argsort(np.maximum(rows, columns) >= COARSE, kind="stable")


_COSINES, _ORDER = _cosines(), _coarse_first()


def perceptual_hash(rgb: np.ndarray) -> np.ndarray:
    """Hash an image's looks.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (4,) uint64; the first word is a coarse hash of its own. All zero where the image is flat,
        so that nothing can be said.
    """
    # Of a large image some rows and columns do as well: a fifth of the time, and each pixel of the
    # thumbnail is still a mean of many.
    steps = (max(1, edge // SAMPLED) for edge in rgb.shape[:2])
    sampled = rgb[tuple(slice(None, None, step) for step in steps)]
    grey = Image.fromarray(np.ascontiguousarray(sampled)).convert("L")
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float64)
    if pixels.std() < FLAT:
        return np.zeros(WORDS, dtype=np.uint64)
    spectrum = (_COSINES @ pixels @ _COSINES.T).ravel()
    spectrum[0] = -np.inf  # the mean brightness says nothing; its bit is always 0
    bits = spectrum > np.median(spectrum)
    words: np.ndarray = np.packbits(bits[_ORDER]).view(">u8").astype(np.uint64)
    return words
