"""Count the work of a plan: multiply-adds, images through the net, and what takes time of it.

A training step counts as ``TRAIN_STEP_FORWARDS`` forward passes. The passes of a cell are those of
:mod:`trainables.fixres.adapt`.

What decides an order counts GMACs and activations, and measures nothing: the same plan has the same
order on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sweeps.planning.grid import Point, point_of
from sweeps.planning.options.touched import mixes_channels
from sweeps.planning.plan import Plan
from trainables.evaluation.kept_probe import PROBE_IMAGES
from trainables.evaluation.linear_probe import EXPECTED_LOSSES
from trainables.fixres.arms import ARMS, UNTOUCHED_ARMS
from trainables.models import variants
from trainables.models.map_shape import feature_count
from trainables.profiling.cost import Cost
from trainables.profiling.speed import NOMINAL, Pass, Work
from trainables.training.class_balance import fitted_class_weights
from trainables.training.trunk import TrunkSpec

CellKind = tuple[str, int, tuple[str, ...]]  # variant, test resolution (px), arms
PROBED = "seen by linear probes"  # a purpose of images, in words
TRAIN_STEP_FORWARDS = 3  # The backward pass costs about two forward passes.


def nominal_ms(cost: Cost) -> float:
    """Estimate the milliseconds that training on one image takes on a nominal GPU."""
    return NOMINAL.gmac_ms * cost.gmacs + NOMINAL.activations_ms * cost.activations_m


def nominal_epoch_s(plan: Plan, point: Point, epoch: int) -> float:
    """Estimate the seconds of an epoch, from 1, on a nominal GPU, with the scoring of val."""
    train = plan.counts["train"] * nominal_ms(plan.costs[point.variant, point.train_res])
    tests = plan.grid.tests[point] if epoch in plan.rungs_at(point) else ()
    val = sum(nominal_ms(plan.costs[point.variant, res]) for res in tests)
    return (train + plan.counts["val"] * val / TRAIN_STEP_FORWARDS) / 1000


def dearest_first(plan: Plan) -> tuple[Point, ...]:
    """Order the points by their nominal cost, in whatever order the options name them.

    Those of equal cost, as a variant and its other weights, are in the family's own order.
    """

    def key(point: Point) -> tuple[float, tuple[int, str], int]:
        cost = plan.costs[point.variant, point.train_res]
        return -nominal_ms(cost), variants.order(point.variant), point.train_res

    return tuple(sorted(plan.points, key=key))


def smaller_variants(plan: Plan, variant: str) -> tuple[str, ...]:
    """List the variants of a plan with fewer parameters than one of them, the nearest first."""
    params = {name: cost.params_m for (name, _), cost in plan.costs.items()}
    smaller = [name for name in params if params[name] < params[variant]]
    return tuple(sorted(smaller, key=lambda name: (-params[name], variants.order(name))))


def epoch_gmacs(plan: Plan, point: Point, epoch: int) -> float:
    """Count the GMACs of one epoch, with the scoring of val after it if it is a rung.

    Args:
        epoch: from 1; 0: the scoring of an untouched net.
    """
    gmacs = 0.0
    if epoch > 0:
        forward = plan.costs[point.variant, point.train_res].gmacs
        gmacs += TRAIN_STEP_FORWARDS * plan.counts["train"] * forward
    if epoch in plan.rungs_at(point):
        forward = sum(plan.costs[point.variant, res].gmacs for res in plan.grid.tests[point])
        gmacs += plan.counts["val"] * forward
    return gmacs


def gmacs_left(plan: Plan, point: Point, after: int = 0) -> float:
    """Count the GMACs of a trunk after epoch ``after`` to its end, if it is not cut."""
    epochs = range(after + 1, plan.epochs_at(point) + 1)
    return sum(epoch_gmacs(plan, point, epoch) for epoch in epochs)


def planned_trunks(plan: Plan, begun: Iterable[TrunkSpec]) -> int:
    """Count the trunks of a plan, over all points, by what those start from that have begun.

    Args:
        begun: those of a point in the order in which they began.
    """
    firsts: dict[Point, TrunkSpec] = {}
    for trunk in begun:
        firsts.setdefault(point_of(trunk), trunk)
    more = (plan.samples_with(own) - plan.samples_at(point) for point, own in firsts.items())
    return plan.trunks + sum(more)


def expected_trunks(plan: Plan, point: Point, epoch: int) -> int:
    """Count the trunks of a point that are expected to train one of its epochs, from 1.

    Of those that come to a rung the best 1/reduction go on, rounded down, and one at least. Repeats
    are trained to the end.
    """
    samples = plan.samples_at(point)
    return expected_samples(plan, plan.rungs_at(point), epoch, samples) + plan.repeats


def expected_samples(plan: Plan, rungs: Sequence[int], epoch: int, trunks: int) -> int:
    """Count as :func:`expected_trunks`, repeats left out, at a point with these rungs.

    Args:
        trunks: that the point has.
    """
    for rung in rungs:
        if rung < epoch:
            trunks = max(1, trunks // plan.spec.halving.reduction)
    return trunks


def most_waiting(*, rungs: int, reduction: int, trunks: int) -> int:
    """Bound the trunks of a point that wait at rungs, with their state, at any one time.

    Args:
        rungs: how many there are before the end.
        reduction: the best 1/reduction of those that came to a rung go on.
        trunks: of the point.
    """
    waiting, coming = 2, trunks  # two: the next to be trained to the end, and its reserve
    for _ in range(rungs):
        waiting += coming // reduction
        # The first ``reduction`` - 1 that come to a rung let none go on.
        coming = max(1, coming - reduction + 1)
    return min(waiting, trunks)


def expected_gmacs_left(plan: Plan, point: Point) -> float:
    """Count the GMACs that the trunks of a point are expected to take, none of them begun."""
    epochs = range(1, plan.epochs_at(point) + 1)
    return sum(expected_trunks(plan, point, e) * epoch_gmacs(plan, point, e) for e in epochs)


def cell_gmacs(plan: Plan, variant: str, test_res: int, arms: Sequence[str] | None = None) -> float:
    """Count the GMACs of one cell; ``arms`` as in :func:`cell_images`."""
    images = cell_images(plan, arms) + _passed_again(plan, variant, test_res, arms)
    return images * plan.costs[variant, test_res].gmacs


def cell_images(plan: Plan, arms_asked: Sequence[str] | None = None) -> int:
    """Count the images through the net in one cell.

    Args:
        arms_asked: None: those of a trained trunk's cell.
    """
    fix = plan.spec.fix
    arms = [ARMS[name] for name in arms_asked or fix.arms]
    passes = int(any(arm.needs_train for arm in arms))
    passes += fix.views * any(arm.needs_mild_views for arm in arms)
    sample = 0 if passes else min(max(arm.sampled for arm in arms), plan.counts["train"])
    of_val = max(arm.passes for arm in arms)
    return passes * plan.counts["train"] + sample + of_val * plan.counts["val"]


def _passed_again(plan: Plan, variant: str, test_res: int, arms: Sequence[str] | None) -> int:
    """Count the images of train that pass once more, as their streamed features are not corrected.

    Args:
        arms: as in :func:`cell_images`.
    """
    asked = [ARMS[name] for name in arms or plan.spec.fix.arms]
    if not mixes_channels(variant) or not any(
        arm.fits_classifier and not arm.needs_mild_views for arm in asked
    ):
        return 0
    return plan.counts["train"] if plan.streams("train", variant, test_res) else 0


def probes(plan: Plan, point: Point) -> int:
    """Count the linear probes that trunks of a point start from: one for each way to weigh classes.

    A trunk that starts from another has that one's classifier. On a cluster there may be more: each
    node on which trunks begin before a probe is in the store fits its own.
    """
    starts, trunks = plan.possible("start"), plan.spec.trunks
    if not trunks.epochs or "probe" not in starts or plan.below(point) is not None:
        return 0
    kinds = {
        fitted_class_weights(sampling, weights)
        for sampling in plan.possible("sampling")
        for weights in plan.possible("class_weights")
    }
    return min(len(kinds), plan.samples)


def probe_images(plan: Plan) -> int:
    """Count the images that a linear probe is fitted on."""
    return min(PROBE_IMAGES, plan.counts["train"])


def image_passes(plan: Plan) -> dict[str, int]:
    """Count the images through the net, by purpose, at most: trunks may be cut short."""
    probed = probe_images(plan) * sum(probes(plan, point) for point in plan.points)
    trained = sum(plan.trunks_at(point) * plan.epochs_at(point) for point in plan.points)
    scored = sum(
        plan.trunks_at(point) * len(plan.rungs_at(point)) * len(tests)
        for point, tests in plan.grid.tests.items()
    )
    return {
        **({PROBED: probed} if probed else {}),
        "trained": trained * plan.counts["train"],
        "scored at rungs": scored * plan.counts["val"],
        "adapted in cells": (plan.cells - plan.cells_untouched) * cell_images(plan)
        + plan.cells_untouched * cell_images(plan, UNTOUCHED_ARMS),
    }


def further_crop_cells(plan: Plan) -> int:
    """Count the cells of trained trunks that a sweep with one crop ratio would not have."""
    return plan.cells - plan.cells_untouched - plan.fixed * sum(map(len, plan.grid.tests.values()))


def planned_cells(plan: Plan) -> Counter[CellKind]:
    """Count the cells of a plan by what they take."""
    counts: Counter[CellKind] = Counter()
    for variant in plan.untouched_variants:
        for res, _ in plan.untouched_tests(variant):
            counts[variant, res, UNTOUCHED_ARMS] += 1
    for point in plan.points:
        for res, _ in plan.grid.cells(point):
            counts[point.variant, res, plan.arms_for(point.variant)] += plan.fixed
    return counts


def baseline_nets(plan: Plan) -> list[tuple[str, int]]:
    """List the untouched nets that the choice may be compared with on held-out sets.

    With ``--refit`` there are none: a net that val trained too is not compared with them.

    Returns:
        Variants, and test resolutions in px.
    """
    if plan.spec.evaluation.refit:
        return []
    return [
        (variant, res)
        for variant in plan.untouched_variants
        for res, _ in plan.untouched_tests(variant)
    ]


# --- works whose seconds the speed of a device predicts ------------------------------------------


def image_pass(
    plan: Plan, variant: str, res: int, images: float, *, train: bool = False, batch: int = 0
) -> Pass:
    """Describe images that go through a variant at a resolution (px) once.

    Args:
        batch: images at once; 0: as the options have it, or the mean where it is searched.
    """
    cost = plan.costs[variant, res]
    sizes = plan.possible("batch_size")
    return Pass(
        gmacs=cost.gmacs,
        activations_m=cost.activations_m,
        layers=cost.layers,
        images=images,
        batch=batch or round(sum(sizes) / len(sizes)),
        train=train,
    )


def epoch_work(
    plan: Plan, point: Point, epoch: int, batch: int = 0, rungs: Sequence[int] | None = None
) -> Work:
    """Describe an epoch of a trunk, with the scoring of val after it if it is a rung.

    Args:
        epoch: from 1; 0: the scoring of an untouched net.
        batch: images at once; 0: as in :func:`image_pass`.
        rungs: of the trunk; None: those that the plan has at its point.
    """
    passes = []
    if epoch > 0:
        images = plan.counts["train"]
        variant, res = point.variant, point.train_res
        passes.append(image_pass(plan, variant, res, images, train=True, batch=batch))
    if epoch in (plan.rungs_at(point) if rungs is None else rungs):
        passes += [
            image_pass(plan, point.variant, res, plan.counts["val"], batch=batch)
            for res in plan.grid.tests[point]
        ]
    return Work(passes=tuple(passes))


def probe_work(plan: Plan, point: Point) -> Work:
    """Describe the fitting of a linear probe that trunks of a point start from.

    Its fit is a pass of all images at once: each time that the loss is computed, features are read,
    and multiplied for logits and for gradients.
    """
    images, numbers = probe_images(plan), feature_count(point.variant)
    products = 2 * EXPECTED_LOSSES * numbers * len(plan.classes)
    fit = Pass(
        gmacs=products / 1e9,
        activations_m=EXPECTED_LOSSES * numbers / 1e6,
        layers=EXPECTED_LOSSES,
        images=images,
        batch=images,
        train=False,
    )
    return Work(passes=(image_pass(plan, point.variant, point.train_res, images), fit))


def cell_work(plan: Plan, variant: str, test_res: int, arms: Sequence[str] | None = None) -> Work:
    """Describe a cell.

    Args:
        arms: None: those of a trained trunk's cell.
    """
    images = cell_images(plan, arms) + _passed_again(plan, variant, test_res, arms)
    fits = [ARMS[name] for name in arms or plan.spec.fix.arms if ARMS[name].fits_features]
    steps = plan.spec.fix.head_epochs * (plan.counts["train"] // plan.spec.fix.head_batch_size + 1)
    return Work(passes=(image_pass(plan, variant, test_res, images),), head_steps=len(fits) * steps)
