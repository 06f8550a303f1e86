"""Score the choice on the held-out sets: the test split and the extra test sets.

Each set is read for the chosen row and, where its arm is tuned, for the same trunk untuned on the
same pixels, in one pass: what tuning for a resolution gains on the test split, it may lose on a
shifted set. Both are read on val again as well, in float32 as the model is served: on a GPU val has
decided in the arithmetic of cells, whose body runs in bf16.

Where the chosen net is fine-tuned, the best untouched row of its variant is read on each set too:
on val, which picked the choice, their difference flatters it. That row is a baseline, and nothing
is chosen between the two. A refitted net is not compared with it: val trained the one and not the
other, so that the difference would tell of more images as well.

Where readings are made is the caller's: here is what is to be read, and what comes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweeps.final_model.calibration import calibrate
from sweeps.final_model.outcome import (
    Outcome,
    PairedGain,
    ServedModel,
    paired_gain,
    served_as_swept,
)
from sweeps.output.retention import is_pruned
from sweeps.planning.cell import Cell
from sweeps.planning.plan import Plan
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row, make_row
from sweeps.selection.untouched import untouched_of
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

log = logging.getLogger("fixres")

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
    sets = list(_held_out_sets(plan, images, progress))
    chosen = _Net(cell=served_model.cell, arms=_arms_to_read(plan, served_model), sets=sets)
    baseline = None if served_model.refit else _baseline(plan, choice.row, rows, sets, store)
    nets = [chosen, *([baseline] if baseline else [])]
    lacking = [reading for net in nets for reading in _lacking(plan, net, store)]
    if not served_model.refit:
        lacking += _lacking_on_val(chosen, images, store)
    _look(nets, lacking, store, read_all)
    held_out_rows, gains = _results(plan, chosen, store)
    cell, arm = chosen.cell.spec, served_model.arm
    predictions = (
        recorded_predictions(store, choice.row.cell, choice.row.arm),
        held_out_predictions(sets[0], store, cell, arm),
    )
    on_val = {} if served_model.refit else recorded_on_val(images.digest, store, cell, chosen.arms)
    return Outcome(
        rows=[*rows, *held_out_rows],
        choice=choice,
        gains=gains,
        gains_on_untouched=_gains_on(baseline, chosen, store) if baseline else {},
        refit=served_model.refit,
        test_cells=len(cells_tested_on(store, "test")),
        val_as_served={arm: result.score for arm, result in on_val.items()},
        calibration=calibrate(predictions, refit=served_model.refit),
        predictions=predictions,
        latency=latency,
        read_s=sum(result.seconds for net in nets for result in _found(net, store)),
        refit_s=served_model.refit_s,
    )


@dataclass(frozen=True, kw_only=True)
class _Net:
    """A net that held-out sets are read for."""

    cell: Cell
    arms: tuple[str, ...]
    """Its own, and behind it what it is compared with in the same pass."""
    sets: Sequence[HeldOutSet]
    is_baseline: bool = False


def _baseline(
    plan: Plan, row: Row, rows: Sequence[Row], sets: Sequence[HeldOutSet], store: Store
) -> _Net | None:
    """Find the untouched net that a chosen row is counted from; None: there is none.

    Where its checkpoints were deleted, the sets are left that it was read on before; a warning
    names the others.
    """
    untouched = untouched_of(row, rows)
    if untouched is None:
        return None
    cell, arms = served_as_swept(plan, untouched, store).cell, (untouched.arm,)
    if is_pruned(store, untouched, changes=bool(ARMS[untouched.arm].changes)):
        known = [one for one in sets if recorded_on(one, store, cell.spec, arms)]
        if lost := [one.name for one in sets if one not in known]:
            log.warning(
                "%s: the choice is not compared with the untouched net there, whose checkpoints "
                "an earlier --keep has deleted",
                ", ".join(lost),
            )
        sets = known
    return _Net(cell=cell, arms=arms, sets=sets, is_baseline=True)


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
    tuned = ARMS[model.arm].is_adapted and not plan.lacks_classifier(model.cell.trunk)
    return (model.arm, UNTUNED) if tuned else (model.arm,)


def _lacking(plan: Plan, net: _Net, store: Store) -> Iterator[Reading]:
    """List the readings of held-out sets that the store lacks."""
    for one in net.sets:
        if len(recorded_on(one, store, net.cell.spec, net.arms)) < len(net.arms):
            where = plan.spec.extra_test_sets.get(one.name)
            data = None if where is None else place_of(where)
            yield Reading(
                cell=net.cell.spec,
                arms=net.arms,
                name=one.name,
                digest=one.digest,
                data=data.resolve() if isinstance(data, Path) else data,
                baseline=net.is_baseline,
            )


def _lacking_on_val(net: _Net, images: ImageSet, store: Store) -> Iterator[Reading]:
    """List the reading of val, if the store lacks it."""
    cell, arms = net.cell.spec, net.arms
    if len(recorded_on_val(images.digest, store, cell, arms)) < len(arms):
        yield Reading(cell=cell, arms=arms, name="val", digest=images.digest)


def _look(nets: Sequence[_Net], lacking: Sequence[Reading], store: Store, read: ReadAll) -> None:
    """Record the looks at held-out sets, and make the readings that the store lacks."""
    for net in nets:
        for one in net.sets:
            record_looks(one, store, net.cell.spec, net.arms, baseline=net.is_baseline)
    if lacking:
        for cell, arm in dict.fromkeys((r.cell, arm) for r in lacking for arm in r.arms):
            # Damage is found here, where it is mended, and not by a trial, which is tried again.
            adapted_state(store, cell.trunk, cell.key, arm)
        read(lacking)


def _results(plan: Plan, chosen: _Net, store: Store) -> tuple[list[Row], dict[str, PairedGain]]:
    """Read what the readings of the chosen net came to.

    Returns:
        A row for each set and arm; and by set what tuning gained, empty where the arm is untuned or
        the net untouched.
    """
    cell, arms = chosen.cell, chosen.arms
    cost = plan.costs[cell.variant, cell.test_res]
    rows, gains = [], {}
    for one in chosen.sets:
        found: dict[str, ArmResult] = recorded_on(one, store, cell.spec, arms)
        rows += [make_row(cell, cost, found[arm]) for arm in arms]
        if len(arms) > 1:
            gains[one.name] = paired_gain(*(held_out_hits(one, store, cell.spec, a) for a in arms))
    return rows, gains


def _gains_on(baseline: _Net, chosen: _Net, store: Store) -> dict[str, PairedGain]:
    """Compare the chosen net with a baseline, by set."""

    def hits(net: _Net, one: HeldOutSet) -> np.ndarray:
        return held_out_hits(one, store, net.cell.spec, net.arms[0])

    return {one.name: paired_gain(hits(chosen, one), hits(baseline, one)) for one in baseline.sets}


def _found(net: _Net, store: Store) -> Iterator[ArmResult]:
    """Read the results on all of a net's sets."""
    for one in net.sets:
        yield from recorded_on(one, store, net.cell.spec, net.arms).values()
