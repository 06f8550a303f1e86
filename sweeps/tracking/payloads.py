"""What MLflow is told, as metrics, tags and words. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mlflow.entities import Metric

from sweeps.planning.plan import Plan
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from trainables.training.trunk import EpochReport

ROWS = "rows.parquet"  # of a cell's run: its rows of the leaderboard
EXPERIMENT_NOTE = (
    "FixRes sweeps: which EfficientNet, train resolution and test resolution serve best. A run for "
    "each sweep, and below it one for each trunk (trained once) and each cell (a trunk adapted to "
    "a test resolution)."
)


def epoch_metrics(report: EpochReport) -> list[Metric]:
    values = {"lr": report.lr, "seconds": report.seconds}
    if report.train_top1 is not None:
        values["train/top1"] = report.train_top1
    if report.loss is not None:
        values["train/loss"] = report.loss
    if report.best_val is not None:
        values["val/top1"] = report.best_val.top1
        values |= {f"val/top1_at_{res}": s.top1 for res, s in report.val.items()}
    return [Metric(k, v, report.at, report.epoch) for k, v in values.items()]


def trunk_tags(why: str, reports: Sequence[EpochReport]) -> dict[str, Any]:
    """How a trunk ended; with the images that went through the net at once where memory did not
    take whole batches."""
    tags: dict[str, Any] = {"ended": why, "epochs_trained": len(reports)}
    if reports and reports[-1].micro_batch is not None:
        tags["micro_batch"] = reports[-1].micro_batch
    return tags


def _metric_name(split: str) -> str:
    """A set's name in the letters that MLflow allows."""
    return re.sub(r"[^\w .-]", "_", split)


def head_tags(rows: Sequence[Row]) -> dict[str, Any]:
    """How each arm's classifier was fitted."""
    return {f"head_{r.arm}": r.head_in_words for r in rows if r.head_tried}


def parent_values(choice: Choice, rows: Sequence[Row]) -> dict[str, float]:
    """What the parent says of the chosen row, on every set."""
    row = choice.row
    values = {
        "val/top1": row.top1,
        "val/top5": row.top5,
        "val/optimism": choice.optimism,
        "work/params_m": row.params_m,
        "work/gmacs": row.gmacs,
        "work/memory_mb": row.memory_mb,
    }
    if row.latency_ms is not None:
        values["work/latency_ms"] = row.latency_ms
    for unseen in rows:
        if unseen.split != "val":
            name = _metric_name(unseen.split)
            role = "" if unseen.arm == row.arm else "_untuned"
            values |= {f"{name}/top1{role}": unseen.top1, f"{name}/top5{role}": unseen.top5}
    return values


def cell_metrics(rows: Sequence[Row], at: int) -> list[Metric]:
    best = max(rows, key=lambda r: r.hits1)
    values = {"val/top1": best.top1, "val/top5": best.top5}
    values |= {f"val/top1_{r.arm}": r.top1 for r in rows}
    values |= {"work/gmacs": best.gmacs, "work/params_m": best.params_m}
    values["work/seconds"] = sum(r.seconds for r in rows)
    return [Metric(k, v, at, 0) for k, v in values.items()]


def sweep_note(plan: Plan) -> str:
    grid = plan.grid
    return (
        f"FixRes sweep over {', '.join(plan.spec.grid.variants)}: trained at "
        f"{', '.join(map(str, grid.train_res))} px, tested at "
        f"{', '.join(map(str, grid.test_res))} px. {plan.trunks} trunks, {plan.cells} cells; "
        f"{', '.join(f'{n} {split}' for split, n in plan.counts.items())} images of "
        f"{len(plan.classes)} classes. Accuracies of cells are on val (n = {plan.counts['val']})."
    )
