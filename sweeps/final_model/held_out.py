"""Read the sets that nothing was chosen on: the test split, and further sets by name.

Each is read for the chosen row and, where this was tuned, for the same trunk untuned on the same
pixels: what tuning for a resolution gains on the test split, it may lose on a shifted one.
"""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.final_model.outcome import PairedGain, ServedModel, paired_gain
from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row, make_row
from trainables.data.decode import Progress
from trainables.data.extra_test_sets import open_extra_test_set
from trainables.data.view_cache import ViewCache
from trainables.fixres.arms import ARMS, UNTUNED
from trainables.fixres.held_out_score import HeldOutSet, held_out_hits, score_held_out
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import place_of
from trainables.training.trunk import read_trunk_spec


def score_held_out_sets(
    plan: Plan, served: ServedModel, store: Store, place: ViewCache, progress: Progress
) -> tuple[list[Row], dict[str, PairedGain]]:
    """A row for each set and arm, and the gain on each set. What was read is not read again."""
    cell, arm = served.cell, served.arm
    trunk = read_trunk_spec(store, served.trunk)
    cost = plan.costs[trunk.variant, cell.test_res]
    tuned = bool(ARMS[arm].changes)
    rows, gains = [], {}
    for unseen in _sets(plan, place, progress):
        for one in (arm, UNTUNED) if tuned else (arm,):
            reading = score_held_out(unseen, store, cell, one, place)
            rows.append(make_row(trunk, served.epochs, cell.key, cell.test_res, cost, reading))
        if tuned:
            gains[unseen.name] = paired_gain(
                *(held_out_hits(unseen, store, cell, one) for one in (arm, UNTUNED))
            )
    return rows, gains


def _sets(plan: Plan, place: ViewCache, progress: Progress) -> Iterator[HeldOutSet]:
    images = place.images
    yield HeldOutSet(
        name="test",
        images=images.split("test"),
        digest=f"{images.digest} test",
        present=tuple(range(len(images.classes))),
    )
    for name, where in plan.spec.extra_test_sets.items():
        data, read = place_of(where), plan.spec.read
        found = open_extra_test_set(name, data, place.cache, images.classes, read, progress)
        yield HeldOutSet(name=name, images=found.images, digest=found.digest, present=found.present)
