"""Boxes are erased as timm erases them."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from timm.data.random_erasing import RandomErasing

from trainables.transforms.erasing import draw_boxes, erase

SIDE = 64


def traits(boxes):
    top, left, height, width = boxes[boxes[:, 2] > 0].T
    return {
        "area": height * width,
        "aspect": np.log(height / width),
        "top": top / (SIDE - height),
        "left": left / (SIDE - width),
    }


def by_timm(count):
    """(N, 4): top, left, height, width of what its noise has touched."""
    random.seed(0)
    torch.manual_seed(0)
    erasing = RandomErasing(1.0, mode="pixel", device="cpu")
    boxes = []
    for _ in range(count):
        touched = erasing(torch.zeros(1, SIDE, SIDE))[0] != 0
        rows, columns = (np.flatnonzero(touched.any(dim=d).numpy()) for d in (1, 0))
        size = (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) if len(rows) else (0, 0)
        boxes.append((*(e[0] if len(e) else 0 for e in (rows, columns)), *size))
    return np.array(boxes)


def test_boxes_are_distributed_as_timms():
    ours = traits(draw_boxes(20_000, SIDE, 1.0, np.random.default_rng(1)))
    theirs = traits(by_timm(3_000))
    for name in ours:
        assert ks_2samp(ours[name], theirs[name]).pvalue > 1e-3, name


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_so_many_images_are_erased_and_boxes_lie_inside(probability):
    count = 20_000
    top, left, height, width = draw_boxes(count, SIDE, probability, np.random.default_rng(0)).T
    found = (height > 0).sum()
    assert abs(found - probability * count) <= 5 * np.sqrt(count * probability * (1 - probability))
    assert ((height > 0) == (width > 0)).all()
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= SIDE


def test_the_box_alone_becomes_noise_of_the_mean_and_deviation_of_pixels():
    mean, std = (0.5, 0.45, 0.4), (0.1, 0.05, 0.08)  # where nearly no noise is cut off
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    erase(image, np.array([3, 5, 40, 50]), np.random.default_rng(0), mean=mean, std=std)
    box = image[3:43, 5:55].reshape(-1, 3) / 255
    assert (image != 0).any(axis=2).sum() == len(box)
    normal = (box - mean) / std
    for channel in normal.T:  # as timm's, once they are normalised
        assert kstest(channel, "norm").statistic < 0.05
    assert np.abs(np.corrcoef(normal.T) - np.eye(3)).max() < 0.1


def test_noise_beyond_black_and_white_is_cut_off():
    image = np.full((SIDE, SIDE, 3), 7, np.uint8)
    whole = np.array([0, 0, SIDE, SIDE])
    erase(image, whole, np.random.default_rng(0), mean=(0.5,) * 3, std=(0.5,) * 3)
    # Of a normal variable 16 % is more than a deviation above its mean.
    assert (image == 255).mean() == pytest.approx(0.16, abs=0.02)
    assert (image == 0).mean() == pytest.approx(0.16, abs=0.02)
