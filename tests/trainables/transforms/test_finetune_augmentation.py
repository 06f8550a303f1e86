"""The mild augmentation: its random choices, and the pixels that they lead to."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torchvision.transforms.functional as TF
from PIL import Image
from scipy.stats import chisquare, kstest, pearsonr
from torchvision.transforms import InterpolationMode

from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.finetune_augmentation import MildDraw, draw_mild, mild_transform

PLAIN = MildDraw(flip=False, factors=(1.0, 1.0, 1.0), order=(0, 1, 2), shift=0)
SHAPES = [(90, 140), (140, 90), (100, 100), (61, 37), (7, 5), (9, 90)]
ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)


def transform(res, crop_pct=1.0, interpolation="bicubic"):
    return EvalTransform(test_res=res, crop_pct=crop_pct, interpolation=interpolation)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("res", "crop_pct"), [(32, 1.0), (65, 0.875), (64, 0.9), (32, 1.1)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_draw_that_changes_nothing_is_the_test_transform(shape, res, crop_pct, interpolation):
    image = noise(*shape)
    found = mild_transform(image, transform(res, crop_pct, interpolation), PLAIN)
    assert found.dtype == np.uint8 and found.shape == (res, res, 3)
    np.testing.assert_array_equal(found, transform(res, crop_pct, interpolation)(image))


def by_torchvision(image, res, crop_pct, draw):
    picture = TF.resize(
        Image.fromarray(image), math.floor(res / crop_pct), InterpolationMode.BICUBIC
    )
    if draw.flip:
        picture = TF.hflip(picture)
    for i in draw.order:
        picture = ADJUST[i](picture, draw.factors[i])
    if not draw.shift:
        return np.asarray(TF.center_crop(picture, [res, res]))
    top, left = (round((side - res) / 2) for side in (picture.height, picture.width))
    return np.asarray(TF.crop(picture, top, left + draw.shift, res, res))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize(
    ("shape", "crop_pct", "shift"),
    [
        ((60, 100), 1.0, 0),
        ((60, 100), 1.0, 10),  # 30 x 50 px, 10 px on each side
        ((60, 100), 1.0, -10),
        ((60, 100), 1.0, -3),
        ((100, 60), 0.75, 5),  # 40 x 66 px
    ],
)
def test_the_steps_are_torchvisions(shape, crop_pct, shift, order, flip):
    draw = MildDraw(flip=flip, factors=(1.05, 0.7, 1.3), order=order, shift=shift)
    found = mild_transform(noise(*shape), transform(30, crop_pct), draw)
    np.testing.assert_array_equal(found, by_torchvision(noise(*shape), 30, crop_pct, draw))


def test_the_order_and_each_factor_matter():
    draw = MildDraw(flip=False, factors=(1.05, 0.95, 1.05), order=(0, 1, 2), shift=0)
    others = [replace(draw, order=(1, 2, 0)), replace(draw, flip=True), replace(draw, shift=5)]
    others += [
        replace(draw, factors=f) for f in [(1, 0.95, 1.05), (1.05, 1, 1.05), (1.05, 0.95, 1)]
    ]
    pictures = [mild_transform(noise(60, 100), transform(60), d) for d in [draw, *others]]
    assert len({p.tobytes() for p in pictures}) == 7


def places(height, width, res, crop_pct=1.0, count=6000):
    """(N, 2): top and left of the crops, read off an image that is not resized."""
    assert min(height, width) == math.floor(res / crop_pct)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)
    sizes = np.tile([[height, width]], (count, 1))
    drawn = draw_mild(sizes, transform(res, crop_pct), 0.5, np.random.default_rng(1))
    corners = []
    for i in range(count):
        draw = replace(drawn[i], flip=False, factors=PLAIN.factors)
        corners.append(mild_transform(image, transform(res, crop_pct), draw)[0, 0, :2])
    return np.array(corners, dtype=int)


@pytest.mark.parametrize(
    ("height", "width", "res", "crop_pct", "top", "left"),
    [
        (16, 32, 16, 1.0, 0, 8),
        (60, 24, 16, 2 / 3, 22, 4),  # portrait
        (20, 20, 16, 0.8, 2, 2),
        (16, 21, 16, 1.0, 0, 2),  # 2 px on the left, 3 on the right
    ],
)
def test_shifts_are_uniform_in_size_and_go_both_ways(height, width, res, crop_pct, top, left):
    found = places(height, width, res, crop_pct)
    assert set(found[:, 0]) == {top}
    shift = found[:, 1] - left
    assert np.abs(shift).max() <= left
    sizes = np.bincount(np.abs(shift), minlength=left + 1)
    assert chisquare(sizes).pvalue > 1e-3
    moved = shift[shift != 0]
    assert chisquare([(moved < 0).sum(), (moved > 0).sum()]).pvalue > 1e-3
    assert len(np.unique(shift)) == 2 * left + 1


@pytest.mark.parametrize(
    ("height", "width", "top"),
    [(16, 16, 0), (16, 17, 0), (60, 16, 22)],
    ids=["square", "one px of slack", "portrait"],
)
def test_without_slack_nothing_moves(height, width, top):
    found = places(height, width, 16, count=200)
    np.testing.assert_array_equal(np.unique(found, axis=0), [[top, 0]])


def test_crops_never_reach_outside_whatever_the_sizes():
    sizes = np.random.default_rng(0).integers(5, 60, (1000, 2))
    at = transform(16, 0.9)
    drawn = draw_mild(sizes, at, 0.5, np.random.default_rng(1))
    for i, (height, width) in enumerate(sizes):
        white = np.full((height, width, 3), 255, np.uint8)
        assert mild_transform(white, at, replace(drawn[i], factors=PLAIN.factors)).min() == 255


def drawn_of(count, hflip=0.5, seed: Any = 0):
    return draw_mild(
        np.full((count, 2), 50), transform(32, 0.5), hflip, np.random.default_rng(seed)
    )


@pytest.mark.parametrize("hflip", [0.0, 0.3, 1.0])
def test_the_share_of_images_that_are_mirrored(hflip):
    drawn = drawn_of(20_000, hflip)
    spread = math.sqrt(hflip * (1 - hflip) / len(drawn))
    assert abs(drawn.flip.mean() - hflip) <= 4 * spread


def test_factors_and_orders_are_uniform_and_all_is_independent():
    drawn = drawn_of(20_000)
    for column in drawn.factors.T:
        assert kstest(column, "uniform", (0.95, 0.1)).pvalue > 1e-3
    _, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(counts) == 6 and chisquare(counts).pvalue > 1e-3
    columns = [drawn.flip, *drawn.factors.T, drawn.order[:, 0], drawn.shift, np.abs(drawn.shift)]
    for i, one in enumerate(columns[:-1]):
        for other in columns[i + 1 :]:
            assert pearsonr(one, other).pvalue > 1e-4


def test_a_draw_is_its_row():
    drawn = drawn_of(5)
    for i in range(5):
        draw = drawn[i]
        assert draw.flip is bool(drawn.flip[i])
        assert [*draw.factors, *draw.order, draw.shift] == [
            *drawn.factors[i],
            *drawn.order[i],
            drawn.shift[i],
        ]


def view(seed, threads=1):
    images = [noise(20 + i, 30) for i in range(12)]
    sizes = np.array([image.shape[:2] for image in images])
    drawn = draw_mild(sizes, transform(20), 0.5, np.random.default_rng(seed))

    def one(i):
        return mild_transform(images[i], transform(20), drawn[i])

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(one, range(len(images)))))


def test_a_view_depends_on_its_seed_alone():
    first = view((0, 0))
    np.testing.assert_array_equal(view((0, 0), threads=4), first)
    for other in [(0, 1), (1, 0)]:
        differing = (view(other) != first).any(axis=(1, 2, 3))
        assert differing.mean() > 0.9


def test_draws_hold_one_row_an_image():
    drawn = drawn_of(7)
    assert {len(getattr(drawn, field.name)) for field in fields(drawn)} == {len(drawn)} == {7}


def test_a_crop_larger_than_the_picture_does_not_move():
    drawn = draw_mild(np.full((50, 2), 40), transform(32, 1.1), 0.5, np.random.default_rng(0))
    assert not drawn.shift.any()
