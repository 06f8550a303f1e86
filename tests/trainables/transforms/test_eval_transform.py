import math
import random
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    Normalize,
    RandomResizedCrop,
    ToTensor,
)

from trainables.data.loader import normalize_on_device, train_batches
from trainables.models import variants
from trainables.transforms.augmentation import Augmentation, random_resized_crops
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
    found = eval_transform(image, res, crop_pct, interpolation)
    assert found.dtype == np.uint8
    assert found.shape == (res, res, 3)
    np.testing.assert_array_equal(found, timms_own(image, res, crop_pct, interpolation))


@pytest.mark.parametrize(("res", "side"), [(320, 365), (384, 438), (480, 548)])
@pytest.mark.parametrize("upright", [False, True])
def test_published_resize_sides(monkeypatch, res, side, upright):
    image = noise(120, 80) if upright else noise(80, 120)
    asked = []
    resize = Image.Image.resize

    def spy(self, size, *rest):
        asked.append(size)
        return resize(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", spy)
    eval_transform(image, res, 224 / 256, "bicubic")
    assert [min(size) for size in asked] == [side]
    assert asked[0].index(side) == (0 if upright else 1)


def test_a_full_crop_of_an_image_of_that_size_is_the_image():
    image = noise(64, 64)
    np.testing.assert_array_equal(eval_transform(image, 64, 1.0, "bicubic"), image)


def by_torchvision(shape, augmentation, count):
    """(N, 4): top, left, height, width."""
    torch.manual_seed(0)
    random.seed(0)
    image = torch.empty(3, *shape)
    scale, ratio = list(augmentation.crop_scale), list(augmentation.crop_ratio)
    return np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)])


def by_us(shape, augmentation, count, seed=1):
    sizes = np.tile(np.array([shape], dtype=np.int32), (count, 1))
    return random_resized_crops(sizes, augmentation, np.random.default_rng(seed))


def traits(boxes, shape):
    height, width = shape
    top, left, box_h, box_w = boxes.T
    slack_h, slack_w = np.maximum(1, height - box_h), np.maximum(1, width - box_w)
    return {
        "area": box_h * box_w / (height * width),
        "aspect": np.log(box_w / box_h),
        "top": top / slack_h,
        "left": left / slack_w,
    }


WIDE_OPEN = Augmentation(crop_scale=(0.08, 1.0))


@pytest.mark.parametrize("augmentation", [WIDE_OPEN, Augmentation()], ids=["0.08", "0.25"])
@pytest.mark.parametrize("shape", [(300, 300), (300, 400), (420, 260), (100, 290)], ids=str)
def test_crops_are_distributed_as_torchvisions(shape, augmentation):
    ours = traits(by_us(shape, augmentation, 20_000), shape)
    theirs = traits(by_torchvision(shape, augmentation, 3_000), shape)
    for name in ours:
        assert ks_2samp(ours[name], theirs[name]).pvalue > 1e-3, name


@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (33, 100), (100, 33)], ids=str)
def test_where_nothing_fits_the_box_is_torchvisions_centred_one(shape):
    large = Augmentation(crop_scale=(0.9, 1.0))  # of the area: no box of an allowed shape
    np.testing.assert_array_equal(by_us(shape, large, 50), by_torchvision(shape, large, 50))


def test_a_hopeless_image_spoils_no_other():
    sizes = np.array([[20, 400], [300, 300]] * 500)
    boxes = random_resized_crops(sizes, Augmentation(), np.random.default_rng(0))
    assert len(np.unique(boxes[::2], axis=0)) == 1
    alone = traits(by_us((300, 300), Augmentation(), 20_000), (300, 300))
    among = traits(boxes[1::2], (300, 300))
    assert all(ks_2samp(alone[name], among[name]).pvalue > 1e-3 for name in alone)


@pytest.mark.parametrize("augmentation", [WIDE_OPEN, Augmentation(crop_ratio=(0.1, 10.0))])
def test_boxes_lie_inside(augmentation):
    sizes = np.random.default_rng(3).integers(1, 60, (20_000, 2))
    top, left, height, width = random_resized_crops(sizes, augmentation, np.random.default_rng(4)).T
    assert min(top.min(), left.min()) == 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height <= sizes[:, 0]).all()
    assert (left + width <= sizes[:, 1]).all()


def mean_sigma(height, width, augmentation):
    boxes = by_us((height, width), augmentation, 100_000)
    return float(np.sqrt(boxes[:, 2] * boxes[:, 3] / (height * width)).mean())


def test_mean_apparent_size():
    """E[sigma], by which training enlarges objects: published arithmetic for scale 0.08 to 1."""
    uniform_area = Augmentation(crop_scale=(0.08, 1.0), crop_ratio=(1.0, 1.0))
    closed_form = 2 / 3 * (1 - 0.08**1.5) / 0.92
    assert closed_form == pytest.approx(0.708, abs=5e-4)
    assert mean_sigma(1000, 1000, uniform_area) == pytest.approx(closed_form, abs=2e-3)
    assert mean_sigma(1000, 1000, WIDE_OPEN) == pytest.approx(0.667, abs=3e-3)
    assert mean_sigma(750, 1000, WIDE_OPEN) == pytest.approx(0.635, abs=3e-3)


def test_square_crops_are_uniform_in_area_and_place():
    squares, shape = Augmentation(crop_scale=(0.2, 0.6), crop_ratio=(1.0, 1.0)), (1000, 1000)
    found = traits(by_us(shape, squares, 5_000), shape)
    assert kstest(found["area"], "uniform", (0.2, 0.4)).pvalue > 1e-3
    assert kstest(found["top"], "uniform").pvalue > 1e-3
    assert kstest(found["left"], "uniform").pvalue > 1e-3


class Plates:
    """A split whose image i has the one colour i: a crop tells where it is from."""

    def __init__(self, count):
        self.labels = np.arange(count) % 3
        self.sizes = np.tile([[20, 30]], (count, 1))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return np.full((20, 30, 3), i, dtype=np.uint8)


def epoch(split: Any, batch_size=4, seed=(0, 1), threads=2, hflip=0.5, res=8):
    return list(
        train_batches(
            split,
            res,
            batch_size=batch_size,
            augmentation=Augmentation(hflip=hflip),
            interpolation="bicubic",
            seed=seed,
            threads=threads,
        )
    )


def numbers(batches):
    return np.concatenate([batch.pixels[:, 0, 0, 0] for batch in batches])


def test_batches_do_not_depend_on_the_number_of_threads(tiny_images):
    split = tiny_images.split("train")
    alone, together = epoch(split, threads=1), epoch(split, threads=4)
    assert len(alone) == len(together) == len(split) // 4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.flip, other.flip)


@pytest.mark.parametrize("count", [8, 11, 100])
def test_every_image_once_an_epoch_but_for_the_last_partial_batch(count):
    batches = epoch(Plates(count))
    assert [len(b.pixels) for b in batches] == [4] * (count // 4)
    seen = numbers(batches)
    assert len(set(seen.tolist())) == len(seen) == count - count % 4
    labels = np.concatenate([b.labels for b in batches])
    np.testing.assert_array_equal(labels, seen % 3)
    assert all(b.pixels.dtype == np.uint8 and b.labels.dtype == np.int64 for b in batches)


def test_the_only_batch_is_kept_although_it_is_not_full():
    batches = epoch(Plates(3))
    assert sorted(numbers(batches).tolist()) == [0, 1, 2]


def test_epochs_and_seeds_differ_and_the_same_seed_does_not(tiny_images):
    split = tiny_images.split("train")
    first, again = epoch(split, seed=(0, 1)), epoch(split, seed=(0, 1))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    orders = [tuple(numbers(epoch(Plates(100), seed=s))) for s in [(0, 1), (0, 2), (1, 1), (1, 0)]]
    assert len(set(orders)) == 4


def test_whom_an_incomplete_epoch_leaves_out_changes():
    seen = [frozenset(numbers(epoch(Plates(11), seed=(0, e))).tolist()) for e in range(20)]
    assert frozenset.union(*seen) == set(range(11))
    assert len(set(seen)) > 5


@pytest.mark.parametrize("hflip", [0.0, 0.3, 1.0])
def test_the_share_of_images_to_be_mirrored(hflip):
    split = Plates(200)
    epochs = [epoch(split, batch_size=50, seed=(0, e), hflip=hflip) for e in range(20)]
    flips = np.concatenate([batch.flip for batches in epochs for batch in batches])
    assert flips.dtype == bool
    spread = math.sqrt(hflip * (1 - hflip) / len(flips))
    assert abs(flips.mean() - hflip) <= 4 * spread


def test_the_train_pixels_are_torchvisions_resized_crops(tiny_images, monkeypatch):
    split = tiny_images.split("train")
    boxes = np.array([[i % 5, 2 + i % 3, 30 + i % 11, 25 + i % 7] for i in range(len(split))])
    monkeypatch.setattr("trainables.data.loader.random_resized_crops", lambda *_: boxes)
    (batch,) = epoch(split, batch_size=len(split), res=24)
    wanted = set()
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        picture = TF.resized_crop(
            Image.fromarray(split[i]), top, left, height, width, [24, 24], InterpolationMode.BICUBIC
        )
        wanted.add((int(split.labels[i]), np.asarray(picture).tobytes()))
    found = {
        (int(label), pixels.tobytes())
        for label, pixels in zip(batch.labels, batch.pixels, strict=True)
    }
    assert found == wanted


@pytest.mark.parametrize("variant", ["b0", "b8"])
def test_to_device_is_torchvisions_normalisation(variant):
    wanted = variants.preprocessing(variants.get(variant))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    chain = Compose([ToTensor(), Normalize(wanted.mean, wanted.std)])
    found = normalize_on_device(pixels, wanted, torch.device("cpu"))
    torch.testing.assert_close(
        found, torch.stack([chain(Image.fromarray(p)) for p in pixels]), rtol=0, atol=1e-6
    )
    assert found.is_contiguous(memory_format=torch.channels_last)
