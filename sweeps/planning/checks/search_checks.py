"""Check what is searched: that its parts agree with each other and with the other options."""

from __future__ import annotations

from typing import Any

from sweeps.planning.grid import Point, points_of
from sweeps.planning.options.space import (
    PLAIN_LR,
    Choices,
    Dimension,
    Interval,
    SearchSpace,
    value_of_setting_in_words,
)
from sweeps.planning.options.tries import BINDING, Try
from sweeps.planning.options.words import option
from sweeps.planning.search import (
    FEW_STEPS_LR,
    FROZEN_NORMS_LR,
    Search,
    rates_follow_images,
    search_of,
    with_learning_rates,
)
from sweeps.planning.spec import SweepSpec
from trainables.errors import UserError


def check_search(spec: SweepSpec) -> None:
    """Check the space, and the points that are tried first.

    Raises:
        UserError: an option cannot go with what is searched, or a point is not in the space.
    """
    search = search_of(spec)
    if spec.trunks.epochs == 0 and (spec.search.space or search.tries):
        given = "--space" if spec.search.space else "--try"
        raise UserError(f"{given} is of how trunks are trained, and --epochs 0 trains none: leave "
                        "it out, or train for some epochs.")  # fmt: skip
    if spec.trunks.epochs == 0 and spec.search.repeat > 1:
        raise UserError(
            f"--repeat {spec.search.repeat} trains trunks again with other seeds, and --epochs 0 "
            "trains none: leave it out, or train for some epochs."
        )
    if spec.search.transfer and (spec.trunks.epochs == 0 or len(spec.grid.variants) == 1):
        what = "--epochs 0 trains none" if spec.trunks.epochs == 0 else "--variants has one"
        raise UserError(
            "--transfer begins a larger variant's search with what was best of a smaller, and "
            f"{what}: leave it out."
        )
    varied = set(search.varied)
    if {"sampling", "class_weights"} & varied and "trunk" in spec.fix.head_class_weights:
        raise UserError(
            "--space varies how classes are weighed in training, and --head-class-weights trunk "
            "follows it: say how classifiers weigh them, as --head-class-weights none."
        )
    if "crop_scale" in varied and (
        spec.grid.test_res == "auto" or "auto" in spec.fix.test_crop_pct
    ):
        name = "--test-res" if spec.grid.test_res == "auto" else "--test-crop-pct"
        raise UserError(
            f"{name} auto follows from one --crop-scale, and --space varies it: give numbers."
        )
    for number, tried in enumerate(search.tries, start=1):
        _check_try(tried, f"--try: point {number}", search, spec)
    for point in points_of(spec):
        _check_tries_at(point, search, spec)


def with_settled_search(spec: SweepSpec, train_images: int) -> SweepSpec:
    """Settle what the search leaves to the images, and check what is searched by that.

    Raises:
        UserError: a point that is tried first is not in the space.
    """
    settled = with_learning_rates(spec, train_images)
    if settled != spec:
        check_search(settled)
    return settled


def _check_try(given: Try, name: str, search: Search, spec: SweepSpec) -> None:
    for entry, value in given.items():
        shown = value_of_setting_in_words(value)
        if entry not in BINDING:
            dimension = _yet_possible(search, spec).get(entry)
            if dimension is None:
                fixed = value_of_setting_in_words(getattr(spec.trunks, entry))
                if shown != fixed:
                    raise UserError(
                        f"{name} has {entry} {shown}, and it is {fixed} for all trunks: vary it by "
                        "--space, or leave it out."
                    )
            elif not _admits(dimension, value):
                raise UserError(
                    f"{name} has {entry} {shown}, which is not in {dimension}: give "
                    f"{option(entry)} or its entry of --space more room, or leave the point out."
                )
    bound = {entry: given[entry] for entry in BINDING if entry in given}
    if not any(bound.items() <= vars(point).items() for point in points_of(spec)):
        words = " and ".join(f"{entry} {value}" for entry, value in bound.items())
        raise UserError(
            f"{name} is bound to {words}, which is no point of the grid: name one that --variants "
            "and --train-res have."
        )


def _yet_possible(search: Search, spec: SweepSpec) -> SearchSpace:
    """Return the space, with all learning rates that it may have once the images are known."""
    if not rates_follow_images(spec):
        return search.space
    low, high = zip(PLAIN_LR, FEW_STEPS_LR, FROZEN_NORMS_LR, strict=True)
    return {**search.space, "lr": Interval(low=min(low), high=max(high), log=True)}


def _admits(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Choices):
        return (tuple(value) if isinstance(value, list) else value) in dimension.values
    return bool(dimension.low <= value <= dimension.high)


def _starts_from_another(point: Point, spec: SweepSpec) -> bool:
    """Whether trunks of a point start from those of a smaller train resolution."""
    return spec.grid.cascade and point.train_res > min(
        other.train_res for other in points_of(spec) if other.variant == point.variant
    )


def _check_tries_at(point: Point, search: Search, spec: SweepSpec) -> None:
    draws = search.tries_at(point)
    name, samples = "--samples", spec.search.samples
    if _starts_from_another(point, spec) and spec.cascade_samples < samples:
        name, samples = "--cascade-samples", spec.cascade_samples
    if len(draws) > samples:
        raise UserError(
            f"--try gives {len(draws)} points for {point}, and {name} is {samples}: raise it to "
            f"{len(draws)}, or leave some out."
        )
    for i, draw in enumerate(draws):
        if draw in draws[:i]:
            raise UserError(
                f"--try gives the same point twice for {point}, what is not named being in the "
                f"middle (points {draws.index(draw) + 1} and {i + 1} there): leave one out."
            )
