"""Resolve the resolutions and crop ratios of the grid from the options. Pure.

Train resolutions are given, or each net's native one. Test resolutions are given, published, or a
ladder around the one at which objects look as large as in training. Crop ratios are given, those of
the weights, or the one at which objects look as large as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from sweeps.planning.published import PUBLISHED, published
from sweeps.planning.spec import SweepSpec
from trainables.errors import UserError
from trainables.models import variants
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.resolution import (
    TEST_CROP_PCT,
    equalising_crop_pct,
    equalising_test_res,
    ladder,
    resize_side,
)

if TYPE_CHECKING:  # it imports torch, and the command line takes points from here
    from trainables.training.trunk import TrunkSpec


@dataclass(frozen=True, kw_only=True)
class Point:
    """A variant at a train resolution: the trunks of one point are compared with each other."""

    variant: str
    train_res: int  # px

    def __str__(self) -> str:
        return f"{self.variant} at {self.train_res}"


def point_of(trunk: TrunkSpec) -> Point:
    """Return the point that a trunk belongs to."""
    return Point(variant=trunk.variant, train_res=trunk.train_res)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The test resolutions of each point, and the crop ratios at each of them."""

    tests: dict[Point, tuple[int, ...]]
    """px, by point."""
    crops: Mapping[tuple[Point, int], tuple[float, ...]] = field(default_factory=dict)
    """By point and test resolution, in rising order, no two of which give the same pixels."""
    reasons: tuple[str, ...] = ()
    """Lines that explain the test resolutions, where a ladder was made."""

    @property
    def train_res(self) -> tuple[int, ...]:
        """All train resolutions of the grid, px, in rising order."""
        return tuple(sorted({p.train_res for p in self.tests}))

    @property
    def test_res(self) -> tuple[int, ...]:
        """All test resolutions of the grid, px, in rising order."""
        return tuple(sorted({r for tests in self.tests.values() for r in tests}))

    @property
    def crop_pct(self) -> tuple[float, ...]:
        """All crop ratios of the grid, in rising order."""
        return tuple(sorted({crop for crops in self.crops.values() for crop in crops}))

    def cells(self, point: Point) -> list[tuple[int, float]]:
        """List the cells of one trunk of a point: test resolution, px, and crop ratio."""
        return [(res, crop) for res in self.tests[point] for crop in self.crops[point, res]]

    def untouched_cells(self, variant: str) -> list[tuple[int, float]]:
        """List where a variant is tested untouched: at all resolutions and crops of its points."""
        found = {
            (res, resize_side(res, crop)): (res, crop)
            for point in self.tests
            if point.variant == variant
            for res, crop in self.cells(point)
        }
        return sorted(found.values())

    def of(self, variant: str) -> Grid:
        """Return the part of the grid that belongs to one variant."""
        return Grid(
            tests={p: t for p, t in self.tests.items() if p.variant == variant},
            crops={(p, r): c for (p, r), c in self.crops.items() if p.variant == variant},
        )


def resolve_grid(spec: SweepSpec, sizes: np.ndarray) -> Grid:
    """Resolve the grid that a spec asks for.

    Args:
        sizes: (N, 2) height and width of the train images.

    Raises:
        UserError: published resolutions are asked for, and a variant has none.
    """
    points = list(points_of(spec))
    test_res = spec.grid.test_res
    if test_res == "published":
        grid = Grid(tests={p: (_published_test_res(p.variant),) for p in points})
    elif test_res == "auto":
        grid = _ladders(spec, points, sizes)
    else:
        grid = Grid(tests=dict.fromkeys(points, test_res))
    aspect = _median_aspect(sizes)
    crops = {
        (point, res): _crops(spec, point, res, aspect)
        for point, tests in grid.tests.items()
        for res in tests
    }
    return replace(grid, crops=crops)


def points_of(spec: SweepSpec) -> Iterable[Point]:
    """List the points that a spec asks for, in the order of its options."""
    for name in spec.grid.variants:
        given = spec.grid.train_res
        for res in (variants.get(name).native_res,) if given == "native" else given:
            yield Point(variant=name, train_res=res)


def _published_test_res(variant: str) -> int:
    row = published(variant)
    if row is None:
        raise UserError(
            f"--test-res published: nothing is published of {variant}; give its test resolutions, "
            f"or choose from {', '.join(PUBLISHED)}."
        )
    return row.test_res


def native_crop(variant: str) -> float:
    """Look up the crop ratio that a variant's weights came with."""
    return variants.preprocessing(variants.get(variant)).crop_pct


def _crops(spec: SweepSpec, point: Point, test_res: int, aspect: float) -> tuple[float, ...]:
    """Resolve the crop ratios of a point at a test resolution.

    Ratios that resize to the same side give the same pixels: one of them stays, that of the weights
    if it is among them.
    """
    augmentation = Augmentation(crop_scale=spec.trunks.crop_scale)
    args = (point.train_res, test_res, augmentation.crop_scale, augmentation.crop_ratio, aspect)
    native = native_crop(point.variant)
    asked = {
        native if crop == "weights" else equalising_crop_pct(*args) if crop == "auto" else crop
        for crop in spec.fix.test_crop_pct
    }
    by_side = {resize_side(test_res, crop): crop for crop in sorted(asked)}
    if native in asked:
        by_side[resize_side(test_res, native)] = native
    return tuple(sorted(by_side.values()))


def _median_aspect(sizes: np.ndarray) -> float:
    return float(np.median(sizes.max(axis=1) / sizes.min(axis=1)))


def _ladder_crop(spec: SweepSpec, variant: str) -> float:
    """Give the crop ratio that a ladder is made for: of several, the one that shows most.

    At a smaller one objects look larger, and equally large at a lower resolution: such a ladder
    holds that too. A ratio that follows the resolution ("auto") asks for none.
    """
    words = {"weights": native_crop(variant), "auto": 0.0}
    given = (words[c] if isinstance(c, str) else c for c in spec.fix.test_crop_pct)
    return max(given) or TEST_CROP_PCT


def _ladders(spec: SweepSpec, points: list[Point], sizes: np.ndarray) -> Grid:
    """Make a ladder of test resolutions for each point, by the median size of the images."""
    augmentation = Augmentation(crop_scale=spec.trunks.crop_scale)
    aspect = _median_aspect(sizes)
    short = int(np.median(sizes.min(axis=1)))
    tests, reasons = {}, {}
    for point in points:
        crop = _ladder_crop(spec, point.variant)
        args = (
            *(point.train_res, augmentation.crop_scale, augmentation.crop_ratio),
            *(crop, aspect),
        )
        steps = tests[point] = ladder(*args)
        equal = equalising_test_res(*args)
        words = (
            f"{point.train_res} px: test {' '.join(map(str, steps))}, around {equal:.0f} px "
            f"({equal / point.train_res:.2f} times), where objects look as large as in training"
        )
        enlarged = [r for r in steps if r / crop > short]
        if enlarged:
            words += f"; from {enlarged[0]} px up the images ({short} px) are enlarged"
        reasons[point.train_res, crop] = words
    crops = sorted({crop for _, crop in reasons})
    low, high = (100 * share for share in augmentation.crop_scale)
    head = (
        f"crops of {low:.0f} to {high:.0f} % of the area in training, images of {aspect:.2f} : 1, "
        f"crop ratio {' '.join(f'{crop:g}' for crop in crops)} in testing:"
    )
    return Grid(tests=tests, reasons=(head, *reasons.values()))
