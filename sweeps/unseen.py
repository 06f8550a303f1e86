"""Read the sets that nothing was chosen on: the test split, and further sets by name.

Each is read for the chosen row and, where this was tuned, for the same trunk untuned on the same
pixels: what tuning for a resolution gains on the test split, it may lose on a shifted one.
"""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.leaderboard import Row, row
from sweeps.plan import Plan
from trainables.arms import ARMS, UNTUNED
from trainables.decode import Progress
from trainables.further import open_further
from trainables.reading import Unseen, read
from trainables.store import Store
from trainables.trunk import finished_trunk
from trainables.workplace import Workplace


def unseen_rows(
    plan: Plan, chosen: Row, store: Store, place: Workplace, progress: Progress
) -> list[Row]:
    """A row for each set and arm. What was read once is not read again."""
    cell = plan.cell(chosen.variant, chosen.trunk, chosen.test_res)
    trunk, _ = finished_trunk(store, chosen.trunk)
    cost = plan.costs[chosen.variant, chosen.test_res]
    arms = (chosen.arm, UNTUNED) if ARMS[chosen.arm].changes else (chosen.arm,)
    return [
        row(trunk, chosen.trunk_epochs, cell.key, chosen.test_res, cost, reading)
        for unseen in _sets(plan, place, progress)
        for reading in (read(unseen, store, cell, arm, place) for arm in arms)
    ]


def _sets(plan: Plan, place: Workplace, progress: Progress) -> Iterator[Unseen]:
    images = place.images
    yield Unseen(
        name="test",
        images=images.split("test"),
        digest=f"{images.digest} test",
        present=tuple(range(len(images.classes))),
    )
    for name, folder in plan.spec.further.items():
        found = open_further(name, folder, place.cache, images.classes, plan.spec.read, progress)
        yield Unseen(name=name, images=found.images, digest=found.digest, present=found.present)
