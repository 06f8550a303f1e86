"""Phase 1 without nets and without Ray: workers that report made-up accuracies at once."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sweeps.events.event_types import Event
from sweeps.planning.plan import Plan
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from tests.factories import spec_with
from trainables.evaluation.metrics import Score
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines
from trainables.storage.hashing import to_jsonable
from trainables.storage.replacing import replacing
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports

SMALL_SPEC = spec_with(
    variants=("b0", "b1"),
    train_res=(64, 96),
    test_res=(64, 96, 128),
    epochs=6,
    samples=3,
    grace_epochs=1,
    reduction=2,  # rungs 1, 2, 4, 6
)
Training = Callable[[Plan, TrunkSpec, int], EpochReport]


class Events(list[Event]):
    """A watcher that keeps all."""

    def on(self, event: Event) -> None:
        self.append(event)


def accuracy(trunk: TrunkSpec, epoch: int, res: int) -> float:
    miss = math.log10(trunk.hyper.lr / 2e-3) ** 2 + abs(trunk.hyper.label_smoothing - 0.05)
    size = 0.2 * (trunk.variant == "b1") + 0.1 * (res / trunk.train_res == 4 / 3)
    return 0.6 * math.exp(-miss) * (1 - math.exp(-epoch / 2)) + size


def report_of(plan: Plan, trunk: TrunkSpec, epoch: int, at: int = 0) -> EpochReport:
    n, resolutions = plan.counts["val"], plan.grid.test_res
    rungs = plan.rungs_to(trunk.recipe.epochs)
    hits = {res: round(n * accuracy(trunk, epoch, res)) for res in resolutions}
    val = {res: Score(split="val", n=n, hits1=h, hits5=n) for res, h in hits.items()}
    return EpochReport(
        epoch=epoch,
        loss=1 / epoch,
        train_top1=0.5,
        images=plan.counts["train"],
        lr=trunk.hyper.lr,
        seconds=1.0,
        at=at or 1000 * epoch,
        val=val if epoch in rungs else {},
    )


def diverging(plan: Plan, trunk: TrunkSpec, epoch: int) -> EpochReport:
    """The second epoch of b0's trunks with a large lr is not finite."""
    report = report_of(plan, trunk, epoch)
    if trunk.variant == "b0" and trunk.hyper.lr > 1e-3 and epoch == 2:
        lost: dict[str, Any] = {"loss": None, "val": {}, "diverged": True}
        return EpochReport(**{**vars(report), **lost})
    return report


def next_trunk(director: TrunkScheduler) -> TrunkSpec | None:
    """What a trial trains that is queued and starts at once; one that starts with nothing ends."""
    while (point := director.queue()) is not None:
        if (trunk := director.begin(point)) is not None:
            return trunk
    return None


class Farm:
    """Workers without Ray: what the store holds of a trunk is reported, the rest trained."""

    def __init__(self, plan: Plan, store: Store[Path], training: Training = report_of):
        self.plan, self.store, self.training = plan, store, training
        self.trained: Counter[tuple[str, int]] = Counter()

    def step(self, trunk: TrunkSpec, reported: int) -> EpochReport:
        recorded = recorded_reports(self.store, trunk.key)
        if reported < len(recorded):
            return recorded[reported]
        report = self.training(self.plan, trunk, reported + 1)
        self.trained[trunk.key, report.epoch] += 1
        state = {
            "model": {"w": torch.tensor([float(report.epoch)])},
            "reports": to_jsonable([*recorded, report]),
        }
        with replacing(self.store.trunk(trunk.key) / "state.pt") as temporary:
            torch.save(state, temporary)
        return report

    def run(
        self,
        director: TrunkScheduler,
        concurrency: int = 1,
        rng: random.Random | None = None,
        restarts: float = 0.0,
    ) -> None:
        """To the end of the phase; now and then a worker starts its trunk over."""
        rng = rng or random.Random(0)
        running: dict[str, tuple[TrunkSpec, int]] = {}
        while True:
            while len(running) < concurrency and (trunk := next_trunk(director)) is not None:
                assert trunk.key not in running, "handed out twice"
                running[trunk.key] = (trunk, director.epochs_reported(trunk))
            if not running:
                return
            trunk, reported = running[rng.choice(sorted(running))]
            if rng.random() < restarts:
                reported = 0
            if director.report(trunk, self.step(trunk, reported)):
                running[trunk.key] = (trunk, reported + 1)
            else:
                del running[trunk.key]


def outcome(director: TrunkScheduler, store: Store[Path]) -> dict[str, Any]:
    """All that a phase leaves, without the store's dead epochs and the clock."""
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in (store.root / "trunks").glob("*/result.json")
    }
    results = {key: (value["why"], len(value["reports"])) for key, value in found.items()}
    return {
        "results": results,
        "journal": read_lines(store.journal),
        "survivors": [t.key for t in director.survivors()],
        "over": director.is_over,
        "open": [str(p) for p in store.root.rglob("state.pt")],
    }


def phase(
    plan: Plan, root: Path, training: Training = report_of, **how: Any
) -> tuple[TrunkScheduler, Store[Path], Farm, Events]:
    store, events = Store(root), Events()
    director, farm = TrunkScheduler(plan, store, events), Farm(plan, store, training)
    farm.run(director, **how)
    return director, store, farm, events
