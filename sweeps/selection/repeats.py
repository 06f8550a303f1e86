"""Rows that differ in their seeds alone: mean and spread, and how they are judged. Pure.

A configuration is judged by the mean over its repeats: that of one training has the luck of its
seed in it, and the best of several is too high. The net that is handed over is one of them, the one
that is best on val; that val picks it is counted as optimism.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

import numpy as np

from sweeps.selection.leaderboard import Row
from sweeps.selection.optimism import flattery, halves_of
from sweeps.selection.resampling import Resampler
from trainables.evaluation.class_metrics import IN_WORDS
from trainables.evaluation.confidence import paired_difference_of_means

Group = tuple[int, ...]  # places of rows


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Group the places of rows that repeat each other, in the order of their first ones.

    Rows of one number repeat nothing: they are groups of their own.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    alike: Counter[tuple[object, ...]] = Counter()
    for place, row in enumerate(rows):
        key = (row.split, row.first_trunk, row.test_res, row.crop_pct, row.arm)
        groups.setdefault((*key, alike[key, row.repeat]), []).append(place)
        alike[key, row.repeat] += 1
    return [tuple(places) for places in groups.values()]


def with_repeats_counted(rows: Sequence[Row]) -> list[Row]:
    """Fill in of each row of val that is repeated, how often, and mean and spread over repeats."""
    found = list(rows)
    for places in groups_of(rows):
        own = [rows[place] for place in places]
        if own[0].split == "val" and len(own) > 1:
            filled: dict[str, Any] = {"repeats": len(own), **_means(own)}
            for place, row in zip(places, own, strict=True):
                found[place] = replace(row, **filled)
    return found


def _means(rows: Sequence[Row]) -> dict[str, float]:
    means: dict[str, float] = {}
    for metric in IN_WORDS:
        values = [row.own_value(metric) for row in rows]
        if min(values) >= 0:  # all of them were counted
            means |= {f"mean_{metric}": fmean(values), f"sd_{metric}": stdev(values)}
    return means


@dataclass(frozen=True)
class HitsJudge:
    """Judges rows by top-1, as :class:`.Resampler` does by other metrics."""

    right: np.ndarray
    """(rows, n) bool."""
    cut: np.ndarray | None = None
    """(trunks, n), what trunks that val cut might have come to (:mod:`.cut_trunks`)."""

    @property
    def values(self) -> np.ndarray:
        """Top-1 of each row."""
        shares: np.ndarray = self.right.mean(axis=1)
        return shares

    def differences(self, first: int, groups: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
        """Compute by how much group ``first`` is better than each, and the standard errors."""
        best = self._mean(groups[first])
        pairs = [paired_difference_of_means(best, self._mean(group)) for group in groups]
        differences, errors = np.array(pairs).T
        return differences, errors

    def _mean(self, group: Group) -> np.ndarray:
        mean: np.ndarray = self.right[list(group)].mean(axis=0)
        return mean

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 on random halves of val and on the others, of rows and cut trunks."""
        inside, outside = halves_of(self.right)
        if self.cut is None:
            return inside, outside
        of_cut = halves_of(self.cut)  # the same halves
        return np.concatenate([inside, of_cut[0]]), np.concatenate([outside, of_cut[1]])


@dataclass(frozen=True, kw_only=True)
class RepeatsJudge:
    """Judges groups of rows by their means.

    The standard error of a difference has two parts: the images of val are a sample, and so are the
    seeds. Where all is repeated alike, seeds are compared in pairs, as two arms of one trunk are.
    What was trained once, beside what is repeated, is taken to vary as that does. What is due to an
    image and a seed together is in both parts, so that the error is rather too large.
    """

    rows: Sequence[Row]
    judge: HitsJudge | Resampler
    groups: Sequence[Group]

    @cached_property
    def own(self) -> np.ndarray:
        """The metric of each row: (rows,)."""
        return self.judge.values

    @property
    def values(self) -> np.ndarray:
        """The metric of each group: (groups,)."""
        return np.array([self.own[list(group)].mean() for group in self.groups])

    def best_of(self, group: int) -> int:
        """Return the place of the group's row that is best on val, of equal ones the first."""
        places = self.groups[group]
        return max(places, key=lambda place: (self.own[place], -self.rows[place].repeat))

    def differences(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute by how much group ``first`` is better than each, and the standard errors."""
        differences, errors = self.judge.differences(first, self.groups)
        seeds = [self._seed_variance(self.groups[first], other) for other in self.groups]
        return differences, np.sqrt(errors**2 + np.array(seeds))

    def optimism(self) -> float:
        """Estimate by how much, as a share, the best row of the best group is too high."""
        inside, outside = self.judge.halves()
        alone = [(place,) for place in range(len(self.rows), len(inside))]
        return flattery(inside, outside, [*self.groups, *alone])

    def _seed_variance(self, first: Group, second: Group) -> float:
        """Estimate the variance of the difference of two means that is due to the seeds."""
        if len(first) == len(second) == 1:
            return 0.0
        trunks = [[self.rows[place].trunk for place in group] for group in (first, second)]
        if trunks[0] == trunks[1]:
            return _variance(self.own[list(first)] - self.own[list(second)]) / len(first)
        groups = [group for group in (first, second) if not self.rows[group[0]].untouched]
        known = [_variance(self.own[list(group)]) for group in groups if len(group) > 1]
        if not known:
            return 0.0
        return math.fsum(
            (_variance(self.own[list(group)]) if len(group) > 1 else known[0]) / len(group)
            for group in groups
        )


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0
