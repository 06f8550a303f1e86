"""Resolve the resolutions of the grid from the options. Pure.

Train resolutions are given, or each net's native one. Test resolutions are given, published, or a
ladder around the one at which objects look as large as in training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sweeps.planning.published import PUBLISHED, published
from sweeps.planning.spec import SweepSpec
from trainables.errors import UserError
from trainables.models import variants
from trainables.training.trunk import TrunkSpec
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.resolution import equalising_test_res, ladder


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
    """The test resolutions of each point."""

    tests: dict[Point, tuple[int, ...]]
    """px, by point."""
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

    def of(self, variant: str) -> Grid:
        """Return the part of the grid that belongs to one variant."""
        return Grid(tests={p: t for p, t in self.tests.items() if p.variant == variant})


def resolve_grid(spec: SweepSpec, sizes: np.ndarray) -> Grid:
    """Resolve the grid that a spec asks for.

    Args:
        sizes: (N, 2) height and width of the train images.

    Raises:
        UserError: published resolutions are asked for, and a variant has none.
    """
    points = list(_points(spec))
    test_res = spec.grid.test_res
    if test_res == "published":
        return Grid(tests={p: (_published_test_res(p.variant),) for p in points})
    if test_res == "auto":
        return _ladders(spec, points, sizes)
    return Grid(tests=dict.fromkeys(points, test_res))


def _points(spec: SweepSpec) -> Iterable[Point]:
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


def _ladders(spec: SweepSpec, points: list[Point], sizes: np.ndarray) -> Grid:
    """Make a ladder of test resolutions for each point, by the median size of the images."""
    augmentation = Augmentation(crop_scale=spec.trunks.crop_scale)
    aspect = float(np.median(sizes.max(axis=1) / sizes.min(axis=1)))
    short = int(np.median(sizes.min(axis=1)))
    tests, reasons = {}, {}
    for point in points:
        args = (
            *(point.train_res, augmentation.crop_scale, augmentation.crop_ratio),
            *(spec.fix.test_crop_pct, aspect),
        )
        steps = tests[point] = ladder(*args)
        equal = equalising_test_res(*args)
        words = (
            f"{point.train_res} px: test {' '.join(map(str, steps))}, around {equal:.0f} px "
            f"({equal / point.train_res:.2f} times), where objects look as large as in training"
        )
        enlarged = [r for r in steps if r / spec.fix.test_crop_pct > short]
        if enlarged:
            words += f"; from {enlarged[0]} px up the images ({short} px) are enlarged"
        reasons[point.train_res] = words
    low, high = (100 * share for share in augmentation.crop_scale)
    head = (
        f"crops of {low:.0f} to {high:.0f} % of the area in training, images of {aspect:.2f} : 1, "
        f"crop ratio {spec.fix.test_crop_pct:g} in testing:"
    )
    return Grid(tests=tests, reasons=(head, *reasons.values()))
