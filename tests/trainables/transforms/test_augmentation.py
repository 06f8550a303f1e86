"""Crops of the training augmentation, distributed as torchvision's."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop

from trainables.transforms.augmentation import Augmentation, random_resized_crops


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
