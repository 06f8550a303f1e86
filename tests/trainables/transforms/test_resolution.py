"""Resize sides, apparent sizes and ladders of test resolutions."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from trainables.transforms import resolution
from trainables.transforms.resolution import (
    MIN_RES,
    equalising_test_res,
    expected_side_share,
    object_size_ratio,
    resize_side,
)

RATIO = (3 / 4, 4 / 3)  # torchvision's default
WIDE, PRODUCT, LARGE = (0.08, 1.0), (0.25, 1.0), (0.9, 1.0)
CROPS = [
    (scale, aspect, crop_pct)
    for scale in (WIDE, PRODUCT, LARGE)
    for aspect in (1.0, 4 / 3, 0.5)
    for crop_pct in (1.0, 0.875)
]


@pytest.mark.parametrize(("test_res", "side"), [(224, 256), (320, 365), (384, 438), (480, 548)])
def test_published_resize_sides(test_res, side):
    assert resize_side(test_res, 224 / 256) == side


@pytest.mark.parametrize("test_res", [32, 224, 420, 800])
def test_a_full_crop_is_as_large_as_the_short_side(test_res):
    assert resize_side(test_res, 1.0) == test_res


# --- the share of the side that a training crop keeps -------------------------------------------


def drawn_side_shares(scale, ratio, aspect, count):
    """sigma of torchvision's boxes on an image so large that whole pixels do not matter."""
    width, height = (int(1e6 * min(1, side)) for side in (aspect, 1 / aspect))
    image = torch.empty(3, height, width, device="meta")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)]
    return np.sqrt([h * w / (height * width) for _, _, h, w in boxes])


BOXES = [
    *((scale, RATIO, aspect) for scale in (WIDE, PRODUCT, LARGE) for aspect in (1.0, 4 / 3)),
    (WIDE, RATIO, 0.4),  # every large box is rejected
    (PRODUCT, RATIO, 4.5),  # the fall-back now and then
    (LARGE, RATIO, 1.5),  # and often
    (LARGE, RATIO, 20.0),  # and always, both ways
    (LARGE, RATIO, 0.05),
    (WIDE, (0.5, 1.2), 0.8),  # ratios that are not symmetric
    ((0.7, 0.7), RATIO, 1.1),  # one area
    ((0.2, 0.9), (1.25, 1.25), 1.0),  # one ratio
    ((0.6, 0.6), (2.0, 2.0), 1.0),  # one box, which does not fit
]


@pytest.mark.parametrize(("scale", "ratio", "aspect"), BOXES)
def test_the_expected_share_is_that_of_torchvisions_boxes(scale, ratio, aspect):
    drawn = drawn_side_shares(scale, ratio, aspect, 2000)
    error = drawn.std() / math.sqrt(len(drawn))
    found = expected_side_share(scale, ratio, aspect)
    assert found == pytest.approx(drawn.mean(), rel=1e-5, abs=4 * error)


@pytest.mark.parametrize(("scale", "ratio", "aspect"), BOXES)
def test_the_expected_share_is_that_over_a_fine_grid_of_draws(scale, ratio, aspect):
    """Finer than chance: each draw of (area, ratio) once, tried on an image of area 1."""
    evenly = (np.arange(1000) + 0.5) / 1000
    share = (scale[0] + evenly * (scale[1] - scale[0]))[:, None]
    r = ratio[0] * (ratio[1] / ratio[0]) ** evenly
    fits = (np.sqrt(share * r) <= aspect**0.5) & (np.sqrt(share / r) <= aspect**-0.5)
    all_fail = (1 - fits.mean()) ** 10
    taken = (np.sqrt(share) * fits).sum() / max(1, fits.sum())
    (centred,) = drawn_side_shares((4.0, 4.0), ratio, aspect, 1)  # larger than the image
    wanted = (1 - all_fail) * taken + all_fail * centred
    assert expected_side_share(scale, ratio, aspect) == pytest.approx(wanted, abs=3e-4)


@pytest.mark.parametrize("scale", [(0.08, 0.5), (0.25, 0.4), (0.01, 0.02)])
@pytest.mark.parametrize("aspect", [1.0, 4 / 3, 0.9])
def test_where_every_box_fits_the_area_alone_counts(scale, aspect):
    """No box of 0.75 : 1 to 1.33 : 1 and half the area sticks out of these images."""
    low, high = scale
    wanted = 2 / 3 * (high**1.5 - low**1.5) / (high - low)
    assert expected_side_share(scale, RATIO, aspect) == pytest.approx(wanted, rel=1e-12)


def test_boxes_of_the_images_shape_are_never_rejected():
    wanted = 2 / 3 * (1 - 0.08**1.5) / 0.92
    assert expected_side_share(WIDE, (1.0, 1.0), 1.0) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("scale", [WIDE, PRODUCT, LARGE, (0.5, 0.5)])
@pytest.mark.parametrize("ratio", [RATIO, (0.5, 1.2), (1.25, 1.25)])
@pytest.mark.parametrize("aspect", [1.0, 4 / 3, 2.7, 20.0])
def test_a_turned_image_keeps_as_much_of_turned_boxes(scale, ratio, aspect):
    turned = (1 / ratio[1], 1 / ratio[0])
    assert expected_side_share(scale, ratio, aspect) == pytest.approx(
        expected_side_share(scale, turned, 1 / aspect), rel=1e-12
    )


@pytest.mark.parametrize("aspect", [1.0, 4 / 3, 3.0])
def test_a_narrow_range_is_nearly_one_value(aspect):
    def share(scale, ratio):
        return expected_side_share(scale, ratio, aspect)

    narrow = (0.3, 0.3 + 1e-7)
    assert share(narrow, RATIO) == pytest.approx(share((0.3, 0.3), RATIO), rel=1e-5)
    narrow = (1.2, 1.2 + 1e-7)
    assert share(WIDE, narrow) == pytest.approx(share(WIDE, (1.2, 1.2)), rel=1e-5)


# --- apparent sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aspect", "crop_pct", "ratio"),
    [(4 / 3, 1.0, 0.733), (1.0, 1.0, 0.667), (4 / 3, 0.875, 0.838), (1.0, 0.875, 0.762)],
)
def test_objects_look_smaller_in_testing(aspect, crop_pct, ratio):
    """Simulated at 500 x 375 px and at 500 x 500 px, where boxes are rounded to whole pixels."""
    found = object_size_ratio(224, 224, scale=WIDE, ratio=RATIO, crop_pct=crop_pct, aspect=aspect)
    assert found == pytest.approx(ratio, abs=1.5e-3)


@pytest.mark.parametrize(("scale", "aspect", "crop_pct"), CROPS)
def test_at_the_equalising_resolution_objects_look_as_large(scale, aspect, crop_pct):
    equal = equalising_test_res(224, scale, RATIO, crop_pct, aspect)
    sizes = {"scale": scale, "ratio": RATIO, "crop_pct": crop_pct, "aspect": aspect}
    assert object_size_ratio(224, equal, **sizes) == pytest.approx(1)
    assert object_size_ratio(224, 2 * equal, **sizes) == pytest.approx(2)
    assert equalising_test_res(448, scale, RATIO, crop_pct, aspect) == pytest.approx(2 * equal)
    upright = equalising_test_res(224, scale, RATIO, crop_pct, 1 / aspect)
    assert upright == pytest.approx(equal)


def test_an_object_measured_in_pixels_of_both_pipelines():
    """A square of 60 px in pictures of 600 x 400: its side after each transform, by its name."""
    torch.manual_seed(0)
    image = torch.empty(3, 400, 600, device="meta")
    boxes = [RandomResizedCrop.get_params(image, PRODUCT, RATIO) for _ in range(2000)]
    trained = [60 * 128 / math.sqrt(h * w) for _, _, h, w in boxes]  # geometric mean of its sides
    tested = 60 * resize_side(168, 0.875) / 400
    found = object_size_ratio(128, 168, scale=PRODUCT, ratio=RATIO, crop_pct=0.875, aspect=1.5)
    assert found == pytest.approx(np.mean([tested / size for size in trained]), rel=0.02)


@pytest.mark.parametrize("train_res", [32, 35, 64, 128, 224, 475, 672])
@pytest.mark.parametrize(("scale", "aspect", "crop_pct"), CROPS)
def test_a_ladder_climbs_from_the_train_resolution(train_res, scale, aspect, crop_pct):
    args = (train_res, scale, RATIO, crop_pct, aspect)
    ladder = resolution.ladder(*args)
    assert len(ladder) == 4 and ladder[0] == train_res
    assert list(ladder) == sorted(set(ladder))
    assert all(res % 4 == 0 for res in ladder[1:])
    equal = equalising_test_res(*args)
    if equal / train_res >= 1.21:
        assert abs(ladder[2] - equal) <= 2
    else:
        assert abs(ladder[2] - 1.21 * train_res) <= 2
    steps = np.diff(np.log([train_res, *ladder[1:]]))
    np.testing.assert_allclose(steps, steps.mean(), atol=4 / train_res)


def test_a_ladder_by_hand():
    """4:3 pictures in full: objects look as large as in training at 224 / 0.732 = 306 px."""
    assert resolution.ladder(224, WIDE, RATIO, 1.0, 4 / 3) == (224, 260, 304, 356)


@pytest.mark.parametrize("train_res", [8, 20, 31])
def test_no_rung_is_below_the_smallest_resolution(train_res):
    ladder = resolution.ladder(train_res, LARGE, RATIO, 0.875, 1.5)
    assert ladder[0] == MIN_RES and list(ladder) == sorted(set(ladder))
