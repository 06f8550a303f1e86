"""Score the choice on the held-out sets: the test split and the extra test sets.

Each set is read for the chosen row and, where its arm is tuned, for the same trunk untuned on the
same pixels, in one pass: what tuning for a resolution gains on the test split, it may lose on a
shifted set. Both are read on val again as well, in float32 as the model is served: on a GPU val has
decided in the arithmetic of cells, whose body runs in bf16.

Where readings are made is the caller's: here is what is to be read, and what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sweeps.final_model.calibration import calibrate
from sweeps.final_model.outcome import Outcome, PairedGain, ServedModel, paired_gain
from sweeps.planning.plan import Plan
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row, make_row
from trainables.data.decode import Progress
from trainables.data.extra_test_sets import open_extra_test_set
from trainables.data.image_set import ImageSet
from trainables.data.view_cache import ViewCache
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS, UNTUNED
from trainables.fixres.cell import ArmResult
from trainables.fixres.held_out_score import (
    HeldOutSet,
    Reading,
    cells_tested_on,
    held_out_hits,
    held_out_predictions,
    held_out_set,
    held_out_test,
    record_looks,
    recorded_on,
    recorded_on_val,
    score_reading,
)
from trainables.fixres.predictions import recorded_predictions
from trainables.machine import available_cores
from trainables.profiling.latency import Conditions
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import place_of

ReadAll = Callable[[Sequence[Reading]], None]
"""Makes readings, wherever that is, and leaves them in the store."""


def read_here(plan: Plan, images: ImageSet, store: Store) -> ReadAll:
    """Make the function that makes readings in this process, one after the other."""
    views = ViewCache(images=images, cache=plan.spec.cache, threads=available_cores())

    def read_all(readings: Sequence[Reading]) -> None:
        for reading in readings:
            score_reading(reading, store, views, plan.spec.read)

    return read_all


def score_choice(
    plan: Plan,
    choice: Choice,
    served_model: ServedModel,
    rows: Sequence[Row],
    images: ImageSet,
    store: Store,
    read_all: ReadAll,
    progress: Progress,
    latency: Conditions | None = None,
) -> Outcome:
    """Score the choice's model on the held-out sets, and fit its temperature on val.

    What the store has a score of is not read again.

    Args:
        rows: the sweep's, on val.
        read_all: makes the readings that the store lacks.
        progress: called while images of an extra test set are decoded.
        latency: what their latencies were measured with.

    Raises:
        DamagedFileError: the weights, or what was predicted, are damaged or missing.
    """
    cell, arms = served_model.cell.spec, _arms_to_read(plan, served_model)
    sets = list(_held_out_sets(plan, images, progress))
    for one in sets:
        record_looks(one, store, cell, arms)
    lacking = list(_lacking(plan, served_model, sets, images, store))
    if lacking:
        for arm in arms:
            # Damage is found here, where it is mended, and not by a trial, which is tried again.
            adapted_state(store, cell.trunk, cell.key, arm)
        read_all(lacking)
    held_out_rows, gains = _results(plan, served_model, sets, store)
    predictions = (
        recorded_predictions(store, choice.row.cell, choice.row.arm),
        held_out_predictions(sets[0], store, cell, served_model.arm),
    )
    on_val = {} if served_model.refit else recorded_on_val(images.digest, store, cell, arms)
    return Outcome(
        rows=[*rows, *held_out_rows],
        choice=choice,
        gains=gains,
        refit=served_model.refit,
        test_cells=len(cells_tested_on(store, "test")),
        val_as_served={arm: result.score for arm, result in on_val.items()},
        calibration=calibrate(predictions, refit=served_model.refit),
        predictions=predictions,
        latency=latency,
    )


def _held_out_sets(plan: Plan, images: ImageSet, progress: Progress) -> Iterator[HeldOutSet]:
    """Open the test split, and then the extra test sets."""
    yield held_out_test(images)
    for name, where in plan.spec.extra_test_sets.items():
        extra = open_extra_test_set(
            name,
            place_of(where),
            plan.spec.cache,
            images.classes,
            plan.spec.read,
            progress,
            whites=images.whites,
        )
        yield held_out_set(extra)


def _arms_to_read(plan: Plan, model: ServedModel) -> tuple[str, ...]:
    """Name the chosen arm and, where it is tuned, the untuned one that it is compared with.

    An untouched net has no classifier of these classes but the one that the arm fitted.
    """
    tuned = ARMS[model.arm].changes and not plan.lacks_classifier(model.cell.trunk)
    return (model.arm, UNTUNED) if tuned else (model.arm,)


def _lacking(
    plan: Plan, model: ServedModel, sets: Sequence[HeldOutSet], images: ImageSet, store: Store
) -> Iterator[Reading]:
    """List the readings that the store lacks; a refitted net was trained on val, and has none."""
    cell, arms = model.cell.spec, _arms_to_read(plan, model)
    for one in sets:
        if len(recorded_on(one, store, cell, arms)) < len(arms):
            where = plan.spec.extra_test_sets.get(one.name)
            data = None if where is None else place_of(where)
            data = data.resolve() if isinstance(data, Path) else data
            yield Reading(cell=cell, arms=arms, name=one.name, digest=one.digest, data=data)
    if not model.refit and len(recorded_on_val(images.digest, store, cell, arms)) < len(arms):
        yield Reading(cell=cell, arms=arms, name="val", digest=images.digest)


def _results(
    plan: Plan, model: ServedModel, sets: Sequence[HeldOutSet], store: Store
) -> tuple[list[Row], dict[str, PairedGain]]:
    """Read what the readings came to.

    Returns:
        A row for each set and arm; and by set what tuning gained, empty where the arm is untuned or
        the net untouched.
    """
    cell, arms = model.cell, _arms_to_read(plan, model)
    cost = plan.costs[cell.variant, cell.test_res]
    rows, gains = [], {}
    for one in sets:
        found: dict[str, ArmResult] = recorded_on(one, store, cell.spec, arms)
        rows += [make_row(cell, cost, found[arm]) for arm in arms]
        if UNTUNED in arms and model.arm != UNTUNED:
            hits = [held_out_hits(one, store, cell.spec, arm) for arm in (model.arm, UNTUNED)]
            gains[one.name] = paired_gain(*hits)
    return rows, gains
