"""The grid: what is given, native, published, or a ladder around equal object sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sweeps.planning.grid import Grid, Point, resolve_grid
from sweeps.planning.published import PUBLISHED
from tests.factories import spec_with
from trainables.errors import UserError
from trainables.models.variants import VARIANTS
from trainables.transforms.resolution import equalising_test_res, object_size_ratio, resize_side

SQUARE = np.full((10, 2), 500)


def oblong(height: int, width: int, n: int = 11) -> np.ndarray:
    return np.tile([[height, width]], (n, 1))


def test_given_resolutions_are_a_product() -> None:
    spec = spec_with(variants=("b0", "b4"), train_res=(64, 96), test_res=(96, 64, 128))
    grid = resolve_grid(spec, SQUARE)
    assert list(grid.tests) == [
        Point(variant=v, train_res=r) for v in ("b0", "b4") for r in (64, 96)
    ]
    assert set(grid.tests.values()) == {(96, 64, 128)} and grid.reasons == ()
    assert (grid.train_res, grid.test_res) == ((64, 96), (64, 96, 128))
    assert set(grid.of("b4").tests) == {Point(variant="b4", train_res=r) for r in (64, 96)}


def test_published_resolutions_are_each_nets_own() -> None:
    spec = spec_with(variants=tuple(PUBLISHED), train_res="native", test_res="published")
    grid = resolve_grid(spec, SQUARE)
    resolutions = {(p.variant, p.train_res, *tests) for p, tests in grid.tests.items()}
    assert resolutions == {(p.variant, p.train_res, p.test_res) for p in PUBLISHED.values()}
    assert all(row.train_res == VARIANTS[v].native_res for v, row in PUBLISHED.items())


def test_published_resolutions_of_an_unpublished_net_are_refused() -> None:
    spec = spec_with(variants=("b0", "lite1"), train_res="native", test_res="published")
    with pytest.raises(UserError, match=r"^--test-res published: nothing is published of lite1"):
        resolve_grid(spec, SQUARE)


@pytest.mark.parametrize("crop_scale", [(0.08, 1.0), (0.35, 1.0)])
@pytest.mark.parametrize("sizes", [SQUARE, oblong(300, 400), oblong(400, 300)])
def test_a_ladder_is_around_the_resolution_of_equal_object_sizes(
    sizes: np.ndarray, crop_scale: tuple[float, float]
) -> None:
    spec = spec_with(variants=("b0",), train_res=(128, 224), test_res="auto", crop_scale=crop_scale)
    grid = resolve_grid(spec, sizes)
    aspect = max(sizes[0]) / min(sizes[0])
    for point, tests in grid.tests.items():
        equal = equalising_test_res(point.train_res, crop_scale, (3 / 4, 4 / 3), 1.0, aspect)
        assert point.train_res in tests and min(tests) < equal < max(tests)
        if equal > 1.21 * min(tests):  # else the steps are of a tenth
            assert min(abs(equal - t) for t in tests) <= 2
    assert f"images of {aspect:.2f} : 1" in grid.reasons[0] and len(grid.reasons) == 3
    assert all(f"{equal / 224:.2f} times" in line for line in grid.reasons[2:])


def test_the_median_image_decides_and_enlarged_ones_are_named() -> None:
    few_odd = np.concatenate([oblong(240, 320, 9), oblong(50, 1000, 3)])
    spec = spec_with(variants=("b0",), train_res=(128, 224), test_res="auto")
    small, large = (
        line for line in resolve_grid(spec, few_odd).reasons if line.startswith(("128", "224"))
    )
    assert resolve_grid(spec, few_odd).tests == resolve_grid(spec, oblong(240, 320)).tests
    assert "enlarged" not in small or "from 2" in small
    assert "px up the images (240 px) are enlarged" in large


def crops_at(test_res: int, sizes: np.ndarray = SQUARE, **options: Any) -> tuple[float, ...]:
    spec = spec_with(variants=("b0",), train_res=(128,), test_res=(test_res,), **options)
    grid = resolve_grid(spec, sizes)
    (point,) = grid.tests
    assert grid.cells(point) == [(test_res, crop) for crop in grid.crops[point, test_res]]
    return grid.crops[point, test_res]


def test_crops_are_the_weights_own_and_the_whole_unless_others_are_given() -> None:
    assert crops_at(160) == (0.875, 1.0)
    assert crops_at(160, test_crop_pct=(1.0, "weights")) == (0.875, 1.0)
    assert crops_at(160, test_crop_pct=("weights",)) == (0.875,)
    assert crops_at(160, test_crop_pct=(0.9, 0.7)) == (0.7, 0.9)
    both = resolve_grid(spec_with(variants=("b0", "b4"), test_res=(160,)), SQUARE)
    assert both.crop_pct == (0.875, 0.922, 1.0) and both.of("b4").crop_pct == (0.922, 1.0)


@pytest.mark.parametrize("sizes", [SQUARE, oblong(300, 400)])
@pytest.mark.parametrize("crop_scale", [(0.08, 1.0), (0.25, 1.0)])
def test_an_auto_crop_makes_objects_as_large_as_in_training(
    sizes: np.ndarray, crop_scale: tuple[float, float]
) -> None:
    aspect, seen = max(sizes[0]) / min(sizes[0]), []
    for test_res in range(32, 400, 16):
        (crop,) = crops_at(test_res, sizes, test_crop_pct=("auto",), crop_scale=crop_scale)
        seen.append(crop)
        size = object_size_ratio(
            128, test_res, scale=crop_scale, ratio=(3 / 4, 4 / 3), crop_pct=crop, aspect=aspect
        )
        least = round(crop_scale[0] ** 0.5, 3)
        if least < crop < 1:
            assert size == pytest.approx(1, abs=0.002)
        elif crop == 1:
            assert size > 0.998  # larger already: a crop can only enlarge them
        else:
            assert crop == pytest.approx(least, abs=0.001) and size < 1.002
    assert seen == sorted(seen) and seen[-1] == 1 and any(crop < 1 for crop in seen)


def test_ratios_that_give_the_same_pixels_are_one_that_of_the_weights_first() -> None:
    assert resize_side(32, 0.98) == resize_side(32, 1.0) == 32
    assert crops_at(32, test_crop_pct=(0.98, 1.0)) == (1.0,)
    assert resize_side(32, 0.87) == resize_side(32, 0.875) == 36
    assert crops_at(32, test_crop_pct=(0.88, 0.87, "weights")) == (0.875,)
    assert crops_at(320, test_crop_pct=(0.98, 1.0)) == (0.98, 1.0)


def test_a_ladder_is_made_for_the_crop_that_shows_most() -> None:
    def ladder(*crops: float | str) -> Grid:
        return resolve_grid(
            spec_with(variants=("b0",), train_res=(128,), test_res="auto", test_crop_pct=crops),
            SQUARE,
        )

    assert ladder("weights", 1.0).tests == ladder(1.0).tests == ladder("auto").tests
    assert max(ladder("weights").test_res) < max(ladder(1.0).test_res)
    assert ladder("weights").reasons[0].endswith("crop ratio 0.875 in testing:")


def test_an_empty_grid_has_no_resolutions() -> None:
    assert Grid(tests={}).test_res == Grid(tests={}).train_res == ()
