"""The crop of a very long image, without resizing all of it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trainables.transforms import centre_crop
from trainables.transforms.centre_crop import resize_and_crop

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
SHAPES = [(1, 2000), (2000, 1), (2, 3000), (61, 997), (333, 500), (3000, 200), (100, 100)]


def noise(height, width):
    values = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("resampling", [BICUBIC, BILINEAR])
@pytest.mark.parametrize(("short", "res"), [(32, 32), (256, 224), (74, 65)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_cropped_is_that_of_the_whole_but_for_rounding(
    monkeypatch, shape, short, res, resampling
):
    picture = noise(*shape)
    whole = resize_and_crop(picture, short, res, resampling)
    monkeypatch.setattr(centre_crop, "MAX_RESIZED_PIXELS", 0)
    part = resize_and_crop(picture, short, res, resampling)
    assert part.shape == whole.shape == (res, res, 3)
    assert np.abs(part.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("shift", [-40, 40])
def test_a_shifted_crop_lies_along_the_width(monkeypatch, shift):
    picture = noise(20, 600)
    whole = resize_and_crop(picture, 64, 64, BICUBIC, shift)
    monkeypatch.setattr(centre_crop, "MAX_RESIZED_PIXELS", 0)
    part = resize_and_crop(picture, 64, 64, BICUBIC, shift)
    assert np.abs(part.astype(int) - whole).max() <= 1
    assert not np.array_equal(part, resize_and_crop(picture, 64, 64, BICUBIC))


STRIPS = """
import resource, sys
import numpy as np
from PIL import Image
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.finetune_augmentation import MildDraw, mild_transform

transform = EvalTransform(test_res=288, crop_pct=1.0, interpolation="bicubic")
draw = MildDraw(flip=True, factors=(1.0, 1.0, 1.0), order=(0, 1, 2), shift=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in [(20000, 1), (1, 20000), (60000, 2)]:
    image = np.full((*shape, 3), 90, np.uint8)
    assert (transform(image) == 90).all()
    assert (mild_transform(image, transform, draw) == 90).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_strip_of_one_pixel_takes_little_memory():
    """Resized as a whole, 1 x 20,000 px took 6.9 GB."""
    run = subprocess.run([sys.executable, "-c", STRIPS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100_000  # KiB
