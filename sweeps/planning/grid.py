"""The grid's resolutions: as given, each net's native one, the published ones, or a ladder around
the resolution at which objects look as large as in training. Pure."""

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
    """Where trunks are trained."""

    variant: str
    train_res: int  # px

    def __str__(self) -> str:
        return f"{self.variant} at {self.train_res}"


def point_of(trunk: TrunkSpec) -> Point:
    """Where a trunk is trained."""
    return Point(variant=trunk.variant, train_res=trunk.train_res)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The test resolutions of each point, px, and in words why these where nobody gave them."""

    tests: dict[Point, tuple[int, ...]]
    why: tuple[str, ...] = ()

    @property
    def train_res(self) -> tuple[int, ...]:
        return tuple(sorted({p.train_res for p in self.tests}))

    @property
    def test_res(self) -> tuple[int, ...]:
        return tuple(sorted({r for tests in self.tests.values() for r in tests}))

    def of(self, variant: str) -> Grid:
        """The part of one variant."""
        return Grid(tests={p: t for p, t in self.tests.items() if p.variant == variant})


def resolve_grid(spec: SweepSpec, sizes: np.ndarray) -> Grid:
    """The grid that a spec asks for.

    Args:
        sizes: (N, 2) height and width of the train images.

    Raises:
        UserError: published resolutions are asked for, and a variant has none.
    """
    points = list(_points(spec))
    asked = spec.grid.test_res
    if asked == "published":
        return Grid(tests={p: (_published_test_res(p.variant),) for p in points})
    if asked == "auto":
        return _ladders(spec, points, sizes)
    return Grid(tests=dict.fromkeys(points, asked))


def _points(spec: SweepSpec) -> Iterable[Point]:
    for name in spec.grid.variants:
        asked = spec.grid.train_res
        for res in (variants.get(name).native_res,) if asked == "native" else asked:
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
    drawn = Augmentation(crop_scale=spec.trunks.crop_scale)
    aspect = float(np.median(sizes.max(axis=1) / sizes.min(axis=1)))
    short = int(np.median(sizes.min(axis=1)))
    tests, why = {}, {}
    for point in points:
        args = (point.train_res, drawn.crop_scale, drawn.crop_ratio, spec.fix.test_crop_pct, aspect)
        rungs = tests[point] = ladder(*args)
        equal = equalising_test_res(*args)
        words = (
            f"{point.train_res} px: test {' '.join(map(str, rungs))}, around {equal:.0f} px "
            f"({equal / point.train_res:.2f} times), where objects look as large as in training"
        )
        above = [r for r in rungs if r / spec.fix.test_crop_pct > short]
        if above:
            words += f"; from {above[0]} px up the images ({short} px) are enlarged"
        why[point.train_res] = words
    low, high = (100 * share for share in drawn.crop_scale)
    head = (
        f"crops of {low:.0f} to {high:.0f} % of the area in training, images of {aspect:.2f} : 1, "
        f"crop ratio {spec.fix.test_crop_pct:g} in testing:"
    )
    return Grid(tests=tests, why=(head, *why.values()))
