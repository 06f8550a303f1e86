"""Say what is to be known of classifiers that are kept: whose classes they are, in which order."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.planning.plan import Plan
from trainables.data.image_set import ImageSet
from trainables.evaluation.kept_classifier import OrderCheck, check_order, predictions_of
from trainables.storage.artifact_store import Store

MOST_IMAGES, FEWEST_IMAGES = 256, 64
MOST_GMACS = 1000.0  # of a check, as far as the fewest images allow


def kept_classifier_lines(plan: Plan, images: ImageSet, store: Store) -> Iterator[str]:
    """Try the classifiers of given weights on images of val, and say where another order fits.

    Those of weights that are not the user's own are ImageNet's, whose classes are known by name.
    """
    for point in {point.variant: point for point in plan.points}.values():
        weights = plan.weights[point.variant]
        if weights.classes == 0:
            yield (
                f"labels   {weights.variant} starts without a classifier: its weights "
                f"({weights.source}) have none"
            )
        elif not weights.keep_classifier:
            yield (
                f"labels   {weights.variant} starts without the classifier of its weights, which is"
                " of ImageNet's classes: those of the images have other names"
            )
        elif weights.are_given and weights.classes == len(plan.classes):
            val = images.split("val")
            gmacs = plan.costs[point.variant, point.train_res].gmacs
            count = min(len(val), MOST_IMAGES, max(FEWEST_IMAGES, int(MOST_GMACS / gmacs)))
            predicted = predictions_of(
                weights, val, len(plan.classes), point.train_res, count, store
            )
            line = _in_words(check_order(plan.classes, val.labels[:count], predicted))
            if line:
                yield f"labels   the classifier of {weights.variant}'s weights {line}"


def _in_words(check: OrderCheck) -> str:
    """Write what a check found; empty where the order is as it should be."""
    given = f"has {100 * check.given:.1f} % of val right (n = {check.n})"
    if check.likely == "another":
        return (
            f"{given} in this order of the classes, and {100 * check.best:.1f} % in another: give"
            " the order of its outputs as --class-order FILE, a class on each line"
        )
    if check.likely:
        return (
            f"{given} in this order of the classes, and {100 * check.best:.1f} % in {check.likely}"
            f" order: stop, and give --class-order {check.likely}"
        )
    if check.is_chance:
        return (
            f"{given}, no more than chance: it may be of other classes, or of these in another"
            " order (--class-order)"
        )
    return ""
