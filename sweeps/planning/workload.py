"""Count the work of a plan: multiply-adds and images through the net, before any of it is done.

A training step counts as ``TRAIN_STEP_FORWARDS`` forward passes. The passes of a cell are those of
:mod:`trainables.fixres.adapt`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from trainables.fixres.arms import ARMS, UNTOUCHED_ARMS

TRAIN_STEP_FORWARDS = 3  # The backward pass costs about two forward passes.


def epoch_gmacs(plan: Plan, point: Point, epoch: int) -> float:
    """Count the GMACs of one epoch, with the scoring of val after it if it is a rung.

    Args:
        epoch: from 1; 0: the scoring of an untouched net.
    """
    gmacs = 0.0
    if epoch > 0:
        forward = plan.costs[point.variant, point.train_res].gmacs
        gmacs += TRAIN_STEP_FORWARDS * plan.counts["train"] * forward
    if epoch in plan.spec.rungs:
        forward = sum(plan.costs[point.variant, res].gmacs for res in plan.grid.tests[point])
        gmacs += plan.counts["val"] * forward
    return gmacs


def gmacs_left(plan: Plan, point: Point, after: int = 0) -> float:
    """Count the GMACs of a trunk after epoch ``after`` to its end, if it is not cut."""
    epochs = range(after + 1, plan.spec.trunks.epochs + 1)
    return sum(epoch_gmacs(plan, point, epoch) for epoch in epochs)


def expected_gmacs_left(plan: Plan, point: Point, after: int = 0) -> float:
    """Count the GMACs of :func:`gmacs_left` on average, if each rung lets 1/reduction go on."""
    gmacs, share_alive = 0.0, 1.0
    for epoch in range(after + 1, plan.spec.trunks.epochs + 1):
        gmacs += share_alive * epoch_gmacs(plan, point, epoch)
        if epoch in plan.spec.rungs:
            share_alive /= plan.spec.halving.reduction
    return gmacs


def cell_gmacs(plan: Plan, variant: str, test_res: int, arms: Sequence[str] | None = None) -> float:
    """Count the GMACs of one cell; ``arms`` as in :func:`cell_images`."""
    return cell_images(plan, arms) * plan.costs[variant, test_res].gmacs


def cell_images(plan: Plan, arms_asked: Sequence[str] | None = None) -> int:
    """Count the images through the net in one cell.

    Args:
        arms_asked: None: those of a trained trunk's cell.
    """
    fix = plan.spec.fix
    arms = [ARMS[name] for name in arms_asked or fix.arms]
    train = int(any(arm.needs_train for arm in arms))
    train += fix.views * any(arm.needs_mild_views for arm in arms)
    return train * plan.counts["train"] + plan.counts["val"]


def image_passes(plan: Plan) -> dict[str, int]:
    """Count the images through the net, by purpose, at most: ASHA may cut trunks short."""
    trained = plan.trunks * plan.spec.trunks.epochs * plan.counts["train"]
    tests = sum(map(len, plan.grid.tests.values()))
    return {
        "trained": trained,
        "scored at rungs": plan.samples * len(plan.spec.rungs) * tests * plan.counts["val"],
        "adapted in cells": (plan.cells - plan.cells_untouched) * cell_images(plan)
        + plan.cells_untouched * cell_images(plan, UNTOUCHED_ARMS),
    }


def further_crop_cells(plan: Plan) -> int:
    """Count the cells of trained trunks that a sweep with one crop ratio would not have."""
    return (
        plan.cells - plan.cells_untouched - plan.survivors * sum(map(len, plan.grid.tests.values()))
    )
