"""Build a plan: from a spec and its images, or from what is known before these are read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sweeps.planning.grid import resolve_grid
from sweeps.planning.plan import Plan
from sweeps.planning.serving.limits import check_limits
from sweeps.planning.spec import SweepSpec
from trainables.data.decode_pool import ExpectedImages
from trainables.data.image_set import ImageSet
from trainables.errors import UserError
from trainables.fixres.arms import ARMS, UNTOUCHED_ARMS
from trainables.models.imagenet import IMAGENET_CLASSES, with_fitting_classifier
from trainables.models.weights import Weights
from trainables.profiling.cost import cost
from trainables.sources.splits import SPLITS


def build_plan(
    spec: SweepSpec, images: ImageSet, weights: Iterable[Weights], near_duplicates: str = ""
) -> Plan:
    """Build the plan of a spec: resolve its grid, and look up the serving cost of each cell.

    Args:
        weights: the start of each variant.
        near_duplicates: those between splits and extra test sets, in words.

    Raises:
        UserError: no cell can be within the serving limits, or the weights do not fit the classes.
    """
    splits = {name: images.split(name) for name in SPLITS}
    grid = resolve_grid(spec, splits["train"].sizes)
    sizes = {
        name: np.bincount(split.labels, minlength=len(images.classes))
        for name, split in splits.items()
    }
    plan = Plan(
        spec=spec,
        grid=grid,
        images_digest=images.digest,
        counts={name: len(split) for name, split in splits.items()},
        classes=images.classes,
        class_sizes=tuple(np.sum([*sizes.values()], axis=0).tolist()),
        train_class_sizes=tuple(sizes["train"].tolist()),
        layout=images.layout,
        weights={w.variant: with_fitting_classifier(w, images.classes) for w in weights},
        costs={
            (point.variant, r): cost(point.variant, r, len(images.classes))
            for point, tests in grid.tests.items()
            for r in sorted({point.train_res, *tests})
        },
        whites=images.whites,
        splits=images.splits_in_words,
        near_duplicates=near_duplicates,
    )
    tested = [(p.variant, res) for p, tests in grid.tests.items() for res in tests]
    arms = (*spec.fix.arms, *(UNTOUCHED_ARMS if plan.has_untouched else ()))
    passes = min(ARMS[arm].passes for arm in arms)
    check_limits(spec.serving, [(plan.costs[at].of_passes(passes), *at) for at in tested])
    if plan.is_to_be_screened and not plan.has_untouched:
        raise UserError(
            f"--screen {spec.grid.screen:g} ranks by the nets as their weights come, and these "
            "are random: give --weights that hold a net of each variant, or leave it out."
        )
    if spec.trunks.epochs == 0:
        _check_classifiers(plan)
    return plan


def expected_plan(spec: SweepSpec, expected: ExpectedImages) -> Plan | None:
    """Build what is known of a plan before any image is decoded: its trunks, cells and counts.

    Returns:
        None where test resolutions or crops follow from the sizes of the images.
    """
    if spec.grid.test_res == "auto" or "auto" in spec.fix.test_crop_pct:
        return None
    grid = resolve_grid(spec, np.ones((1, 2)))  # of any size: nothing follows from it
    return Plan(
        spec=spec,
        grid=grid,
        images_digest="",
        counts=expected.counts,
        classes=expected.classes,
        class_sizes=(),
        train_class_sizes=(),
        layout="",
        weights={},
        costs={},
    )


def _check_classifiers(plan: Plan) -> None:
    """Check that untrained nets have a class for each of the images'."""
    for weights in plan.weights.values():
        if weights.classes == 0:
            raise UserError(
                f"--epochs 0 keeps the classifier of {weights.variant}'s weights "
                f"({weights.source}), and they have none: train for some epochs."
            )
        if weights.classes != len(plan.classes):
            raise UserError(
                f"--epochs 0 keeps the classifier of {weights.variant}'s weights, of "
                f"{weights.classes} classes, and the images are of {len(plan.classes)}: give the "
                "images that it was trained on, or train for some epochs."
            )
        if not weights.keep_classifier:
            raise UserError(
                f"--epochs 0 keeps the classifier of {weights.variant}'s weights, of ImageNet's "
                f"{IMAGENET_CLASSES} classes, and those of the images are not named so (the first "
                f"is {plan.classes[0]}): name them n01440764 and so on, in this order, or train "
                "for some epochs."
            )
