"""The test transform, pixel for pixel as timm has it."""

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from trainables.transforms.eval_transform import EvalTransform

SHAPES = [(90, 140), (140, 90), (100, 100), (61, 37), (7, 5), (9, 90), (333, 500)]


def eval_transform(image, res, crop_pct, interpolation):
    return EvalTransform(test_res=res, crop_pct=crop_pct, interpolation=interpolation)(image)


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 4), max(1, width // 4), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def timms_own(image, res, crop_pct, interpolation):
    chain = timm.data.create_transform(
        input_size=(3, res, res),
        is_training=False,
        crop_pct=crop_pct,
        interpolation=interpolation,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    values = chain(Image.fromarray(image)) * 255
    assert torch.equal(values, values.round())
    return values.byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("res", [32, 65, 224, 420])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_test_transform_is_timms_pixel_for_pixel(shape, res, crop_pct, interpolation):
    image = noise(*shape)
    cropped = eval_transform(image, res, crop_pct, interpolation)
    assert cropped.dtype == np.uint8
    assert cropped.shape == (res, res, 3)
    np.testing.assert_array_equal(cropped, timms_own(image, res, crop_pct, interpolation))


@pytest.mark.parametrize(("res", "side"), [(320, 365), (384, 438), (480, 548)])
@pytest.mark.parametrize("upright", [False, True])
def test_published_resize_sides(monkeypatch, res, side, upright):
    image = noise(120, 80) if upright else noise(80, 120)
    resized_to = []
    resize = Image.Image.resize

    def spy(self, size, *rest):
        resized_to.append(size)
        return resize(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", spy)
    eval_transform(image, res, 224 / 256, "bicubic")
    assert [min(size) for size in resized_to] == [side]
    assert resized_to[0].index(side) == (0 if upright else 1)


def test_a_full_crop_of_an_image_of_that_size_is_the_image():
    image = noise(64, 64)
    np.testing.assert_array_equal(eval_transform(image, 64, 1.0, "bicubic"), image)
