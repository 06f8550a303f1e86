"""Leave points out before any trunk is trained, by what untouched nets are worth. Pure.

A point is as good as the untouched net of its variant, a classifier fitted, at the test resolution
nearest to its train resolution. The best share of the points stays, and of each variant the best:
features that suit the images badly at first may suit them best once they are tuned. So does a point
that trunks of others go back to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.planning.grid import Point
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.storage.typed import checked

NAMED = 6  # points that a sentence names


@dataclass(frozen=True, kw_only=True)
class ScreenedPoint:
    """A point that was ranked."""

    variant: str
    train_res: int  # px
    test_res: int  # px, of the untouched net that it was ranked by
    value: float
    """Of what val decides by, a share: the untouched net's best row there."""
    stays: bool
    wildcard: bool = False
    """Whether it stays as the best of its variant alone."""
    base: bool = False
    """Whether it stays only as trunks of others go back to it."""

    @property
    def point(self) -> Point:
        """The point."""
        return Point(variant=self.variant, train_res=self.train_res)

    def __str__(self) -> str:
        return f"{self.point} ({100 * self.value:.1f} %)"


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Which points are trained, and which are left out."""

    share: float
    metric: Metric
    n: int  # images of val
    ranked: tuple[ScreenedPoint, ...]
    """The best first. Points that could not be ranked are not among them: they stay."""

    @property
    def left_out(self) -> tuple[ScreenedPoint, ...]:
        """The points that no trunk is trained at."""
        return tuple(one for one in self.ranked if not one.stays)

    @property
    def in_words(self) -> str:
        """Say what is left out, and by what."""
        head = (
            f"--screen {self.share:g} leaves {len(self.left_out)} of {len(self.ranked)} variants "
            f"and train resolutions out, by the untouched nets' {IN_WORDS[self.metric]} on val "
            f"(n={self.n}) near the train resolution"
        )
        wild = [one for one in self.ranked if one.wildcard]
        bases = [one for one in self.ranked if one.base]
        parts = [
            ("left out", self.left_out),
            ("kept as the best of its variant", wild),
            ("kept for others to start from", bases),
        ]
        named = [f"{words}: {_named(points)}" for words, points in parts if points]
        return "; ".join([head, *named])


def _named(points: Sequence[ScreenedPoint]) -> str:
    more = len(points) - NAMED
    return ", ".join(map(str, points[:NAMED])) + (f" and {more} more" if more > 0 else "")


def make_screen(
    share: float,
    metric: Metric,
    n: int,
    tests: Mapping[Point, Sequence[int]],
    worth: Callable[[str, int], float | None],
    cost: Callable[[Point], float],
    bases: Container[Point] = (),
) -> Screen:
    """Rank the points, and decide which stay: the best ``share`` of them, rounded up.

    Args:
        tests: the points, and their test resolutions, px.
        worth: of a variant untouched at a test resolution; None: not known.
        cost: of a point; of equal ones the cheaper is the better.
        bases: points that stay whatever their rank, as trunks of others start from theirs.
    """
    found = []
    for point, resolutions in tests.items():
        near = nearest(point.train_res, resolutions)
        value = worth(point.variant, near)
        if value is not None:
            found.append((point, near, value))
    found.sort(key=lambda one: (-one[2], cost(one[0]), one[0].variant, one[0].train_res))
    count = math.ceil(round(share * len(found), 6))
    ranked, seen = [], set[str]()
    for place, (point, near, value) in enumerate(found):
        first = point.variant not in seen
        is_base = point in bases
        seen.add(point.variant)
        ranked.append(
            ScreenedPoint(
                variant=point.variant,
                train_res=point.train_res,
                test_res=near,
                value=value,
                stays=place < count or first or is_base,
                wildcard=place >= count and first,
                base=place >= count and not first and is_base,
            )
        )
    return Screen(share=share, metric=metric, n=n, ranked=tuple(ranked))


def nearest(train_res: int, test_res: Iterable[int]) -> int:
    """Return the test resolution nearest to a train resolution, by ratio; of two, the larger."""
    return min(test_res, key=lambda res: (abs(math.log(res / train_res)), -res))


def screen_from_json(value: Mapping[str, Any] | None) -> Screen | None:
    """Read it from its JSON; raises anything for what is none."""
    if value is None:
        return None
    ranked = tuple(checked(ScreenedPoint(**one)) for one in value["ranked"])
    return checked(Screen(**{**value, "ranked": ranked}))
