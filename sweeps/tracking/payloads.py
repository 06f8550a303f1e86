"""Turn plans, reports, rows and choices into what runs hold: names, params, tags and metrics.

All results are plain values; nothing here depends on MLflow.

Parameters are what a person compares: MLflow's UI lists them in alphabetical order and shows the
first three at once. A run's parameters are therefore few, and everything else is a tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeps.events.failures import Failure, failures_in_words
from sweeps.planning.cell import Cell, crop_in_words
from sweeps.planning.class_balance import class_balance_in_words
from sweeps.planning.options.space import as_json
from sweeps.planning.plan import Plan
from sweeps.planning.search import settings_of
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.tracking.access.names import metric_group
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.profiling.latency import Conditions
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

MAX_TAG = 8_000  # characters of a tag's value
ROWS_FILE = "rows.parquet"  # artifact of a cell's run: its rows of the leaderboard


# --- the parent run -----------------------------------------------------------------------------


def sweep_params(plan: Plan) -> dict[str, str]:
    """Name the axes of the grid."""
    return {
        "variants": " ".join(plan.spec.grid.variants),
        "train_res": " ".join(map(str, plan.grid.train_res)),
        "test_res": " ".join(map(str, plan.grid.test_res)),
        "test_crop_pct": " ".join(map(crop_in_words, plan.grid.crop_pct)),
    }


def sweep_tags(plan: Plan) -> dict[str, object]:
    """Name the images, the number of images in each split, and the seed; describe the plan."""
    return {
        "role": "sweep",
        "images": plan.images_digest,
        "seed": plan.spec.run.seed,
        "mlflow.note.content": sweep_note(plan),
    } | {f"n_{split}": n for split, n in plan.counts.items()}


def sweep_note(plan: Plan) -> str:
    """Describe the plan in sentences."""
    grid, balance = plan.grid, class_balance_in_words(plan)
    return (
        f"FixRes sweep over {', '.join(plan.spec.grid.variants)}: trained at "
        f"{', '.join(map(str, grid.train_res))} px, tested at "
        f"{', '.join(map(str, grid.test_res))} px, crop "
        f"{', '.join(map(crop_in_words, grid.crop_pct))}. {plan.trunks} trunks, {plan.cells} "
        "cells; "
        f"{', '.join(f'{n} {split}' for split, n in plan.counts.items())} images of "
        f"{len(plan.classes)} classes. Accuracies of cells are on val (n = {plan.counts['val']})."
        + (f" Class balance: {balance}." if balance else "")
    )


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the parent run is told at the end of a sweep."""

    choice: Choice
    rows: Sequence[Row]
    """The whole leaderboard."""
    further: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the chosen net that rows do not have, by name."""
    latency: Conditions | None = None
    """What latencies were measured with."""
    failures: Sequence[Failure] = ()
    """Trunks and cells that failed."""
    budget: str = ""
    """What was spent of the budget, and what that left undone, in words; empty: there is none."""
    screen: str = ""
    """What was left out before any trunk was trained, in words; empty: nothing was to be."""
    early_end: str = ""
    """What ended early as the ranking no longer changed, in words; empty: it was not asked for."""
    cascade: str = ""
    """Which trunks started from others, in words; empty: none was to."""
    step: int = 0
    """How often the sweep was extended before: metrics of one choice are at one step."""


def result_tags(results: Results) -> dict[str, str]:
    """Say which row was chosen, why, what failed, and what latencies were measured with."""
    choice, latency, failures = results.choice, results.latency, results.failures
    failed = {
        f"failed_{kind}s": str(sum(failure.kind == kind for failure in failures))
        for kind in ("trunk", "cell")
    }
    tags = {
        "chosen": f"{choice.row.label}, arm {choice.row.arm}",
        "reason": choice.reason,
        **failed,
        **({"screen": results.screen} if results.screen else {}),
        **({"early_end": results.early_end} if results.early_end else {}),
        **({"cascade": results.cascade} if results.cascade else {}),
        **({"budget": results.budget} if results.budget else {}),
    }
    if latency is None:
        return tags
    shown = ("runtime", "version", "device", "precision", "threads", "batch")
    return tags | {f"latency_{name}": str(getattr(latency, name)) for name in shown}


def result_note(results: Results, links: Sequence[str], plan_note: str) -> str:
    """Write the note of a finished sweep: the reason, what failed, links to cells, the plan.

    MLflow cuts a tag off where it is too long: a part for which there is no room is left out.
    """
    failed = [f"{failures_in_words(results.failures)}."] if results.failures else []
    budget = [f"Budget: {results.budget}."] if results.budget else []
    screen = [f"Screen: {results.screen}."] if results.screen else []
    screen += [f"Early end: {results.early_end}."] if results.early_end else []
    screen += [f"Cascade: {results.cascade}."] if results.cascade else []
    parts = [results.choice.reason, *failed, *screen, *budget, *links, plan_note]
    note = parts[0][:MAX_TAG]
    for part in parts[1:]:
        longer = f"{note}\n\n{part}"
        note = longer if len(longer) <= MAX_TAG else note
    return note


def result_metrics(choice: Choice, rows: Sequence[Row]) -> dict[str, float]:
    """Collect the chosen row's accuracy on every set, and its cost.

    "val/top1_kept" is of the classifier that is kept, "val/optimism" by how much val flatters it.

    Args:
        rows: the whole leaderboard. A row of a split other than val is either of the chosen arm
            or of the arm that it is compared with, whose metrics end in "_untuned".
    """
    row = choice.row
    values = {
        **accuracies("val", row),
        "val/top1_kept": row.top1,
        "val/optimism": choice.optimism,
        **_repeats_of(row, choice.metric),
        "work/params_m": row.params_m,
        "work/gmacs": row.gmacs,
        "work/memory_mb": row.memory_mb,
    }
    if row.latency_ms is not None:
        values["work/latency_ms"] = row.latency_ms
    for other in rows:
        if other.split != "val":
            name = metric_group(other.split)
            suffix = "" if other.arm == row.arm else "_untuned"
            values |= accuracies(name, other, suffix)
    return values


def _repeats_of(row: Row, metric: Metric) -> dict[str, float]:
    """Tell the spread over the repeats of a row, and what it is worth by itself."""
    if row.repeats == 1:
        return {}
    own = {"val/own": row.own_value(metric), "val/repeats_sd": row.spread(metric)}
    return {"val/repeats": float(row.repeats), **own}


def accuracies(group: str, row: Row, suffix: str = "") -> dict[str, float]:
    """Name a row's accuracies, as far as they were counted: "val/top1", "val/macro_f1" ...

    They are what rows compare by: cross-fitted on val, where val picked the classifier.
    """
    found = {"top1": row.value("top1"), "top5": row.top5}
    found |= {name: row.value(name) for name in IN_WORDS if row.value(name) >= 0}
    return {f"{group}/{name}{suffix}": value for name, value in found.items()}


# --- the run of a trunk -------------------------------------------------------------------------


def trunk_run_name(trunk: TrunkSpec) -> str:
    """Name a trunk's run by its point and the beginning of its key."""
    train = "untouched" if trunk.is_untouched else f"tr{trunk.train_res}"
    return f"{trunk.variant}-{train}-{trunk.key[:6]}"


def trunk_params(trunk: TrunkSpec, varied: Sequence[str] = ()) -> dict[str, object]:
    """Name a trunk's point and the hyperparameters that the search proposed.

    "with_" puts the hyperparameters behind the axes in alphabetical order.

    Args:
        varied: those of the recipe that the search varies, by name.
    """
    settings = settings_of(trunk)
    shown = [*vars(trunk.hyper), *(name for name in varied if name not in vars(trunk.hyper))]
    point = {"variant": trunk.variant, "train_res": trunk.train_res}
    with_ = {f"with_{name}": as_json(settings[name]) for name in shown}
    return point | with_ | _parent_params(trunk)


def trunk_tags(trunk: TrunkSpec) -> dict[str, object]:
    """Say which weights a trunk starts from, how many epochs it may train, and what it repeats."""
    tags = {"role": "trunk", "weights": trunk.weights.source, "epochs": trunk.recipe.epochs}
    return tags | repeat_tags(trunk) | parent_tags(trunk)


def parent_tags(trunk: TrunkSpec) -> dict[str, object]:
    """Say which trunk it starts from; nothing of one that starts from the weights as they come."""
    return {"parent": trunk.parent.trunk} if trunk.parent else {}


def _parent_params(trunk: TrunkSpec) -> dict[str, object]:
    """Name the train resolution of the trunk that it starts from, px; nothing where it does not."""
    return {"with_parent_res": trunk.parent.train_res} if trunk.parent else {}


def repeat_tags(trunk: TrunkSpec) -> dict[str, object]:
    """Say which repeat of which trunk it is; nothing of the first."""
    return {"repeat": trunk.repeat, "repeat_of": trunk.configuration} if trunk.repeat else {}


def trunk_end_tags(status: TrunkStatus, reports: Sequence[EpochReport]) -> dict[str, object]:
    """Say how a trunk ended, and after how many epochs.

    Where memory did not take whole batches, the tag micro_batch gives the number of images that
    went through the net at once in the last epoch, and frozen_norms the number of epochs in which
    these were too few for batch norm, which stood still. The tags speed_ups and
    resize tell what sped its steps up, and what resized the images.
    """
    tags: dict[str, object] = {"ended": status.value, "epochs_trained": len(reports)}
    if reports and reports[-1].micro_batch is not None:
        tags["micro_batch"] = reports[-1].micro_batch
    if frozen := sum(report.frozen_norms for report in reports):
        tags["frozen_norms"] = frozen
    if reports and reports[-1].speed_ups:
        tags["speed_ups"] = reports[-1].speed_ups
    if reports and reports[-1].resize:
        tags["resize"] = reports[-1].resize
    return tags


def epoch_metrics(report: EpochReport) -> dict[str, float]:
    """Collect one epoch's values; a loss that is not finite is left out."""
    values = {"lr": report.lr, "seconds": report.seconds}
    if report.train_top1 is not None:
        values["train/top1"] = report.train_top1
    if report.loss is not None:
        values["train/loss"] = report.loss
    if report.best_val is not None:
        values["val/top1"] = report.best_val.top1
        values |= {f"val/top1_at_{res}": score.top1 for res, score in report.val.items()}
        for name in ("balanced_accuracy", "macro_f1"):
            found = [getattr(score, name) for score in report.val.values()]
            if None not in found:
                values[f"val/{name}"] = max(found)
    return values


# --- the run of a cell --------------------------------------------------------------------------


def cell_run_name(cell: Cell) -> str:
    """Name a cell's run by its variant, train resolution, test resolution, crop and repeat."""
    crop = crop_in_words(cell.crop_pct)
    train = "untouched" if cell.trunk.is_untouched else f"tr{cell.trunk.train_res}"
    repeat = f"-repeat{cell.trunk.repeat}" if cell.trunk.repeat else ""
    return f"{cell.variant}-{train}-te{cell.test_res}-c{crop}{repeat}"


def cell_params(cell: Cell) -> dict[str, object]:
    """Name the four axes of the grid, and the train resolution that came before, if one did."""
    axes = {"variant": cell.variant, "train_res": cell.trunk.train_res}
    axes |= {"test_res": cell.test_res, "test_crop_pct": cell.crop_pct}
    return axes | _parent_params(cell.trunk)


def cell_end_tags(rows: Sequence[Row], metric: Metric = "top1") -> dict[str, object]:
    """Name a cell's best arm, and say how each arm's classifier was fitted.

    Args:
        rows: of the cell's arms on val, at least one.
        metric: by which an arm is the best.
    """
    best = _best(rows, metric)
    return {"n_val": best.n, "best_arm": best.arm, "untouched": best.untouched} | {
        f"head_{r.arm}": r.head_in_words for r in rows if r.head_tried
    }


def cell_metrics(rows: Sequence[Row], metric: Metric = "top1") -> dict[str, float]:
    """Collect the accuracies of a cell's best arm and of every arm, and the cost.

    Args:
        rows: of the cell's arms on val, at least one.
        metric: by which an arm is the best.
    """
    best = _best(rows, metric)
    shares = accuracies("val", best)
    for row in rows:
        of_arm = accuracies("val", row, f"_{row.arm}")
        shares |= {name: value for name, value in of_arm.items() if "/top5" not in name}
    costs = {"work/gmacs": best.gmacs, "work/params_m": best.params_m}
    costs["work/seconds"] = sum(r.seconds for r in rows)
    # A table shows all digits of a metric: a share has four, which tell 10,000 images apart.
    return {name: round(share, 4) for name, share in shares.items()} | {
        name: float(f"{cost:.4g}") for name, cost in costs.items()
    }


def _best(rows: Sequence[Row], metric: Metric) -> Row:
    """Return the best row, the first of those that are equal."""
    return max(rows, key=lambda r: r.value(metric))
