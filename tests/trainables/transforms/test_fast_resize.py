"""Images to train on are resized as Pillow does it, up to a level or two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.transforms.eval_transform import RESAMPLING
from trainables.transforms.fast_resize import kernel_here, resize_into

SIDES = st.integers(1, 120)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth picture, of which a part is given: its rows do not follow each other in memory."""
    colours = np.random.default_rng(seed).integers(20, 236, (6, 6, 3), dtype=np.uint8)
    size = (width + 5, height + 3)
    whole = np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC))
    return whole[2 : 2 + height, 4 : 4 + width]


@pytest.mark.parametrize("interpolation", list(RESAMPLING))
@settings(deadline=None, max_examples=40)
@given(
    height=SIDES,
    width=SIDES,
    res=st.integers(1, 120),
    seed=st.integers(0, 99),
    mirrored=st.booleans(),
)
def test_both_kernels_resize_alike(
    interpolation: str, height: int, width: int, res: int, seed: int, mirrored: bool
) -> None:
    image = picture(height, width, seed)
    wanted = Image.fromarray(image).resize((res, res), RESAMPLING[interpolation])
    exact, fast = np.empty((2, res, res, 3), np.uint8)
    resize_into(exact, image, interpolation, "pillow", mirrored=mirrored)
    resize_into(fast, image, interpolation, "torch", mirrored=mirrored)
    order = slice(None, None, -1 if mirrored else 1)
    np.testing.assert_array_equal(exact, np.asarray(wanted)[:, order])
    assert np.abs(exact.astype(int) - fast).max() <= 2


def test_an_image_of_the_cache_stays_as_it_is() -> None:
    image = picture(30, 40, 0)
    before = image.copy()
    image.setflags(write=False)
    resize_into(np.empty((16, 16, 3), np.uint8), image, "bicubic", "torch")
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("capability", "kernel"),
    [("AVX512", "torch"), ("AVX2", "torch"), ("DEFAULT", "pillow"), ("NO AVX", "pillow")],
)
def test_the_kernel_is_that_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, capability: str, kernel: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert kernel_here() == kernel
