"""Images that look alike have hashes that differ in few bits."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn
from sklearn.datasets import load_sample_image

from trainables.near_duplicates.hamming_search import nearest
from trainables.near_duplicates.perceptual_hash import perceptual_hash

Edit = Callable[[Image.Image], Image.Image]


def photographs() -> list[np.ndarray]:
    """Parts of two photographs that do not overlap."""
    return [
        np.ascontiguousarray(load_sample_image(name)[top : top + 140, left : left + 210])
        for name in ("china.jpg", "flower.jpg")
        for top in (0, 140, 280)
        for left in (0, 210, 420)
    ]


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


EDITS: dict[str, Edit] = {
    "compressed again": compressed,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "larger": lambda image: image.resize((image.width * 2, image.height * 2)),
    "cut": lambda image: image.crop((2, 1, image.width - 2, image.height - 1)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_image_is_near_to_no_other_and_nearly_always_to_the_one_it_is_from(
    name: str,
) -> None:
    own = photographs()
    edited = [np.asarray(EDITS[name](Image.fromarray(one))) for one in own]
    found, _ = nearest(
        np.array([perceptual_hash(one) for one in edited]),
        np.array([perceptual_hash(one) for one in own]),
    )
    own_places = np.arange(len(own))
    assert all((found == own_places) | (found == -1))
    assert sum(found == own_places) >= len(own) - 1  # one is of blurred leaves alone


def test_other_images_are_not_near() -> None:
    hashes = np.array([perceptual_hash(one) for one in photographs()])
    for place in range(len(hashes)):
        found, _ = nearest(hashes[place : place + 1], np.delete(hashes, place, axis=0))
        assert found.tolist() == [-1]


def test_bits_are_the_signs_of_the_lowest_frequencies_about_their_median() -> None:
    image = photographs()[0]
    small = Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    spectrum = dctn(np.asarray(small, dtype=float), norm=None)[:16, :16]
    words = perceptual_hash(image)
    assert words.dtype == np.uint64 and words.shape == (4,)
    spectrum[0, 0] = -np.inf
    bits = spectrum > np.median(spectrum)
    coarse = int("".join(str(int(bit)) for bit in bits[:8, :8].ravel()), 2)
    assert int(words[0]) == coarse
    assert int(np.bitwise_count(words).sum()) == int(bits.sum()) == 128


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (64, 64)])
def test_flat_images_of_any_size_have_no_hash(size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 200, dtype=np.uint8)
    assert perceptual_hash(flat).tolist() == [0, 0, 0, 0]


def test_brightness_alone_changes_no_bit() -> None:
    image = photographs()[1] // 2
    assert perceptual_hash(image).tolist() == perceptual_hash(image + np.uint8(60)).tolist()
