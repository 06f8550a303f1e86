"""Score the choice on the held-out sets: the test split and the extra test sets.

Each set is read for the chosen row and, where its arm is tuned, for the same trunk untuned on the
same pixels: what tuning for a resolution gains on the test split, it may lose on a shifted set.
Both are read on val again as well, in float32 as the model is served: on a GPU val has decided in
the arithmetic of cells, whose body runs in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.final_model.calibration import calibrate
from sweeps.final_model.outcome import Outcome, PairedGain, ServedModel, paired_gain
from sweeps.planning.plan import Plan
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row, make_row
from trainables.data.decode import Progress
from trainables.data.extra_test_sets import open_extra_test_set
from trainables.data.image_set import ImageSet
from trainables.data.view_cache import ViewCache
from trainables.evaluation.metrics import Score
from trainables.fixres.arms import ARMS, UNTUNED
from trainables.fixres.held_out_score import (
    HeldOutSet,
    cells_tested_on,
    held_out_hits,
    held_out_predictions,
    score_held_out,
    score_val_as_served,
)
from trainables.fixres.predictions import recorded_predictions
from trainables.machine import available_cores
from trainables.profiling.latency import Conditions
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import place_of


def score_held_out_sets(
    plan: Plan, served_model: ServedModel, store: Store, view_cache: ViewCache, progress: Progress
) -> tuple[list[Row], dict[str, PairedGain]]:
    """Score the model on every held-out set; a set that the store has a score of is not read again.

    Args:
        progress: called while images of an extra test set are decoded.

    Returns:
        A row for each set and arm; and by set what tuning gained, empty where the arm is untuned or
        the net untouched.
    """
    cell, arm = served_model.cell, served_model.arm
    cost = plan.costs[cell.variant, cell.test_res]
    arms = _arms_to_read(plan, served_model)
    rows, gains = [], {}
    for held_out_set in _held_out_sets(plan, view_cache, progress):
        for name in arms:
            result = score_held_out(held_out_set, store, cell.spec, name, view_cache)
            rows.append(make_row(cell, cost, result))
        if UNTUNED in arms and arm != UNTUNED:
            gains[held_out_set.name] = paired_gain(
                *(held_out_hits(held_out_set, store, cell.spec, name) for name in (arm, UNTUNED))
            )
    return rows, gains


def _held_out_sets(plan: Plan, view_cache: ViewCache, progress: Progress) -> Iterator[HeldOutSet]:
    images = view_cache.images
    yield test_set(images)
    for name, where in plan.spec.extra_test_sets.items():
        extra = open_extra_test_set(
            name,
            place_of(where),
            view_cache.cache,
            images.classes,
            plan.spec.read,
            progress,
            whites=images.whites,
        )
        yield HeldOutSet(name=name, images=extra.images, digest=extra.digest, present=extra.present)


def test_set(images: ImageSet) -> HeldOutSet:
    """Make the test split a held-out set."""
    return HeldOutSet(
        name="test",
        images=images.split("test"),
        digest=f"{images.digest} test",
        present=tuple(range(len(images.classes))),
    )


def score_choice(
    plan: Plan,
    choice: Choice,
    served_model: ServedModel,
    rows: Sequence[Row],
    images: ImageSet,
    store: Store,
    progress: Progress,
    latency: Conditions | None = None,
) -> Outcome:
    """Score the choice's model on the held-out sets, and fit its temperature on val.

    Args:
        rows: the sweep's, on val.
        latency: what their latencies were measured with.

    Raises:
        DamagedFileError: the weights, or what was predicted, are damaged or missing.
    """
    view_cache = ViewCache(images=images, cache=plan.spec.cache, threads=available_cores())
    held_out_rows, gains = score_held_out_sets(plan, served_model, store, view_cache, progress)
    cell, chosen = served_model.cell.spec, choice.row
    predictions = (
        recorded_predictions(store, chosen.cell, chosen.arm),
        held_out_predictions(test_set(images), store, cell, served_model.arm),
    )
    return Outcome(
        rows=[*rows, *held_out_rows],
        choice=choice,
        gains=gains,
        refit=served_model.refit,
        test_cells=len(cells_tested_on(store, "test")),
        val_as_served=_val_as_served(plan, served_model, store, view_cache),
        calibration=calibrate(predictions, refit=served_model.refit),
        predictions=predictions,
        latency=latency,
    )


def _arms_to_read(plan: Plan, model: ServedModel) -> tuple[str, ...]:
    """Name the chosen arm and, where it is tuned, the untuned one that it is compared with.

    An untouched net has no classifier of these classes but the one that the arm fitted.
    """
    tuned = ARMS[model.arm].changes and not plan.lacks_classifier(model.cell.trunk)
    return (model.arm, UNTUNED) if tuned else (model.arm,)


def _val_as_served(
    plan: Plan, model: ServedModel, store: Store, view_cache: ViewCache
) -> dict[str, Score]:
    """Score the model and the untuned one on val, by arm; a refitted net was trained on val."""
    if model.refit:
        return {}
    return {
        arm: score_val_as_served(store, model.cell.spec, arm, view_cache).score
        for arm in _arms_to_read(plan, model)
    }
