import pytest

from trainables.resolution import feature_side, resize_side


@pytest.mark.parametrize(
    ("res", "side"),
    [(32, 1), (33, 2), (224, 7), (420, 14), (472, 15), (576, 18), (600, 19), (632, 20), (680, 22)],
)
def test_feature_side(res, side):
    assert feature_side(res) == side


@pytest.mark.parametrize(("test_res", "side"), [(224, 256), (320, 365), (384, 438), (480, 548)])
def test_published_resize_sides(test_res, side):
    assert resize_side(test_res, 224 / 256) == side


@pytest.mark.parametrize("test_res", [32, 224, 420, 800])
def test_a_full_crop_is_as_large_as_the_short_side(test_res):
    assert resize_side(test_res, 1.0) == test_res
