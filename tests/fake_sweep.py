"""A whole sweep without nets, Ray and MLflow: its story, its store and its results are real."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sweeps import dry_run as dry
from sweeps import sweep as story
from sweeps.final_model.outcome import Outcome, ServedModel
from sweeps.planning import building
from sweeps.planning.grid import Point
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw
from sweeps.scheduling import trunk_scheduler
from sweeps.scheduling.cell_scheduler import CellScheduler
from sweeps.scheduling.settled_cells import SettledCells
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.terminal import conclusion
from sweeps.terminal.console import Terminal
from tests.factories import file_console, output_of, plan_of, spec_with
from tests.fake_training import Farm
from trainables.evaluation.metrics import Score
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS as FIXRES_ARMS
from trainables.fixres.arms import rank
from trainables.fixres.cell import PREDICTIONS, ArmResult, delta_path, write_predictions
from trainables.fixres.predictions import logits_path, write_logits
from trainables.near_duplicates.pairs import NearDuplicates
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors, write_text
from trainables.training.recipe import Hyper
from trainables.training.trunk import read_trunk_weights

CLOCKS = (".lock", "spending.jsonl", "status.json")  # what no two sweeps have alike
ARMS = ("none", "bn")  # "bn" changes statistics, and has a delta
SPEC = spec_with(
    variants=("b0",),
    weights="none",
    train_res=(64, 96),
    test_res=(64, 128),
    epochs=2,
    samples=2,
    grace_epochs=1,
    reduction=2,
    arms=ARMS,
)


class FakeSweep:
    """Runs a sweep in a folder; what is trained and adapted is counted, by key."""

    def __init__(self, out: Path, patch: pytest.MonkeyPatch):
        self.out, self.made = out, Counter[str]()
        self.lost_cells = 0  # that fail, of those that are handed out
        self.spec = spec_with(SPEC, out=out, cache_dir=out.parent / "cache", data=str(out.parent))
        images = SimpleNamespace(
            digest="0123456789abcdef",
            rejected=(),
            classes=("cat", "dog"),
            split={"train": range(120)}.__getitem__,  # of which only the number matters
        )
        for name, stand_in in {
            "open_images": lambda *_: (images, out.parent),
            "_find_weights": lambda *_: [],
            "find_near_duplicates": lambda *_: NearDuplicates(),
            "plan_view": lambda _: "plan",
            "connect_tracking": lambda *_: None,
            "tracked": no_tracking,
            "RayCluster": NoCluster,
            "run_phases": self._run_phases,
            "with_latencies": lambda rows, *_: (rows, None),
            "score_choice": score_choice,
            "write_evidence": write_evidence,
            "write_carded_model": write_carded_model,
        }.items():
            patch.setattr(story, name, stand_in)
            if hasattr(dry, name):
                patch.setattr(dry, name, stand_in)
        patch.setattr(conclusion, "summary", lambda *_, **__: "summary")
        patch.setattr(conclusion, "comparisons_of_recipe", lambda *_: [])
        patch.setattr(building, "build_plan", lambda spec, *_: plan_of(spec))
        patch.setattr("os.fsync", lambda _: None)  # no power is cut here
        patch.setattr(trunk_scheduler, "propose", propose)

    def run(self) -> str:
        """Run the sweep to its end, and return what it prints."""
        console = file_console()
        story.run(self.spec, Terminal(console))
        return output_of(console)

    def _run_phases(
        self,
        trunks: TrunkScheduler,
        cells: SettledCells,
        context: Any,
        _: object,
        trunks_ended: Callable[[], None],
    ) -> None:
        farm = Farm(trunks.plan, Store(context.store))
        farm.run(trunks)
        self.made.update(key for key, _ in farm.trained)
        trunks_ended()
        self.run_cells(cells.cells, context, None)

    def run_cells(self, scheduler: CellScheduler, context: Any, _: object) -> None:
        """Stand for the trials of cells."""
        store = Store(context.store)
        while (cell := scheduler.next()) is not None:
            if self.lost_cells:
                self.lost_cells -= 1
                scheduler.failed(cell.key, "Traceback:\nRuntimeError: no room.")
                continue
            weights = read_trunk_weights(store, cell.trunk.key)
            labels, results = torch.zeros(50, dtype=torch.int64), []
            predicted = {}
            for arm in cell.spec.arms:
                hits = 20 + 5 * rank(arm) + (cell.test_res > 100)
                predicted[arm] = (torch.arange(50) >= hits).long()
                write_logits(logits_path(store, cell.key, arm), torch.zeros(50, 2))
                score = Score(split="val", n=50, hits1=hits, hits5=50)
                results.append(ArmResult(arm=arm, score=score, seconds=1.0))
                if FIXRES_ARMS[arm].changes:
                    write_tensors(delta_path(store, cell.key, arm), {"w": weights["w"] + 1})
            write_predictions(store.cell(cell.key) / PREDICTIONS, labels, predicted)
            write_json(store.cell(cell.key) / "spec.json", cell.spec)
            write_json(store.cell(cell.key) / "rows.json", results)
            self.made[cell.key] += 1
            scheduler.take(cell.key, results)


class NoCluster:
    """Stands for Ray."""

    placement = None

    def __init__(self, *_: object): ...

    def __enter__(self) -> NoCluster:
        return self

    def __exit__(self, *_: object) -> None: ...


class NoTracker:
    """Stands for MLflow."""

    shortcoming = None

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: "mlflow ui"


@contextmanager
def no_tracking(*_: object) -> Iterator[NoTracker]:
    yield NoTracker()


def score_choice(
    plan: Plan, choice: Choice, served: ServedModel, rows: Sequence[Row], *_: object
) -> Outcome:
    row = Row(**{**vars(choice.row), "split": "test"})
    return Outcome(rows=[*rows, row], choice=choice, gains={}, refit=False, test_cells=1)


@cache
def draw(seed: int, point: Point, sample: int) -> Draw:
    rng = random.Random(f"{seed} {point} {sample}")
    return Draw(hyper=Hyper(lr=rng.uniform(1e-4, 1e-3), weight_decay=0.01, label_smoothing=0.1))


def propose(
    _search: object, point: Point, *_: object, seed: int, sample: int, **how: object
) -> Draw:
    return draw(seed, point, sample)


def write_evidence(out: Path, *_: object) -> list[Path]:
    write_text(out / "report.html", "<p>report</p>")
    write_text(out / "figures" / "heatmap.png", "picture")
    return [out / "figures" / "heatmap.png"]


def write_carded_model(
    folder: Path, plan: Plan, outcome: Outcome, served: ServedModel, store: Store, *_: object
) -> Outcome:
    state = adapted_state(store, served.cell.trunk.key, served.cell.key, served.arm)
    write_tensors(folder / "model.safetensors", state)
    write_text(folder / "README.md", "# card\n")
    return outcome


def contents(out: Path) -> Mapping[str, Any]:
    """What a finished sweep holds, without clocks and ids: JSON as values, all else as bytes."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name not in CLOCKS):
        name = path.relative_to(out).as_posix()
        if name == "spec.json":
            record = json.loads(path.read_text())
            found[name] = {k: v for k, v in record.items() if k not in ("sweep", "began")}
        else:
            found[name] = path.read_bytes()
    return found
