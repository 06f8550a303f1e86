"""The outcome of a finished sweep, the files that hold it, and the model that is served."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sweeps.events.failures import Failure, counts_in_words
from sweeps.events.undone import Budgeted, budgeted_from_json
from sweeps.final_model.calibration import Calibration, CalibrationScore
from sweeps.final_model.int8_net import Int8Net
from sweeps.final_model.served_latency import ServedLatency
from sweeps.output.location import BOARD, CHOICE, SweepLocation
from sweeps.output.results import damaged_results, result_digests
from sweeps.output.sweep_record import SweepRecord
from sweeps.planning.cell import Cell
from sweeps.planning.plan import Plan
from sweeps.planning.savings.screen import Screen, screen_from_json
from sweeps.planning.spec import SweepSpec, differences
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import OtherVersionError, Row, from_record, to_record
from sweeps.selection.optimism import Expectation
from sweeps.tracking.access.names import metric_group
from trainables.evaluation.confidence import paired_difference
from trainables.evaluation.metrics import Score
from trainables.export.openvino_format import OPENVINO_FILE
from trainables.fixres.cell import recorded_spec
from trainables.fixres.predictions import Predictions
from trainables.profiling.latency import Conditions, Latency
from trainables.storage.artifact_store import Store
from trainables.storage.damage import damage_told, unless_damaged
from trainables.storage.fenced_log import has_lines
from trainables.storage.files import children, read_json, write_json
from trainables.storage.typed import checked
from trainables.training.trunk import read_trunk_spec

log = logging.getLogger("fixres")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a sweep: its rows, the choice, and what tuning gained on the held-out sets."""

    rows: list[Row]
    """Rows on val, then those on the held-out sets."""
    choice: Choice
    gains: Mapping[str, PairedGain]
    """On the trunk untuned, by held-out set; empty where the chosen arm is untuned."""
    refit: bool
    """Whether the served model was trained again, on train + val."""
    test_cells: int
    """Cells of this sweep that the test split has been read for so far."""
    gains_on_untouched: Mapping[str, PairedGain] = field(default_factory=dict)
    """On the variant's best untouched row of val, by held-out set. Empty where the choice is
    untouched itself or was refitted, where the sweep has no such row, and where a former version
    has made the choice; a set is missing where that row's checkpoints were deleted before."""
    val_as_served: Mapping[str, Score] = field(default_factory=dict)
    """On val in float32, the chosen arm and, where it is tuned, the untuned: by arm. Empty where
    the net was refitted, which val has trained, and where a former version has made the choice."""
    latency: Conditions | None = None
    """What the latencies of the rows were measured with; None: an earlier version did not say."""
    served_latency: ServedLatency | None = None
    """The latency of the exported ``model.onnx``; None: an earlier version exported it."""
    int8: Int8Net | None = None
    """The net in eight bits, where it was asked for."""
    calibration: Calibration | None = None
    """None: the logits were not kept, as by earlier versions."""
    failures: tuple[Failure, ...] = ()
    """What failed, and is missing among the rows."""
    budgeted: Budgeted | None = None
    """What was spent of the budget, and what that left undone; None: there was none."""
    early_end: str = ""
    """What ended early as the ranking of trunks no longer changed, in words; empty: not asked."""
    cascade: str = ""
    """Which trunks started from others, in words; empty: none was to."""
    screen: Screen | None = None
    """What was left out before any trunk was trained; None: nothing was to be."""
    predictions: tuple[Predictions, ...] = field(default=(), compare=False, repr=False)
    """Of the chosen row on val, and of the served model on test; none in a sweep that is read."""
    read_s: float = field(default=0.0, compare=False, repr=False)
    """Seconds that readings of the held-out sets took, of all nets; 0 in a sweep that is read."""
    refit_s: float = field(default=0.0, compare=False, repr=False)
    """Seconds that training the choice again took; 0 in a sweep that is read."""

    @property
    def temperature(self) -> float | None:
        """What logits are divided by for probabilities; None: nothing."""
        return self.calibration.temperature if self.calibration else None

    @property
    def further_metrics(self) -> dict[str, float]:
        """What MLflow is told beside the rows.

        It is of calibration and of the exported files, and what is gained on the untouched net.
        """
        metrics = dict(self.calibration.metrics) if self.calibration else {}
        for name, gain in self.gains_on_untouched.items():
            group = metric_group(name)
            metrics[f"{group}/on_untouched"] = gain.difference
            metrics[f"{group}/on_untouched_error"] = gain.error
        if self.served_latency is not None:
            metrics["work/latency_ms_model_onnx"] = self.served_latency.latency.latency_ms
        return metrics | (self.int8.metrics if self.int8 else {})

    @property
    def test(self) -> Row:
        """The row of the chosen arm on the test split."""
        return next(r for r in self.rows if r.split == "test" and r.arm == self.choice.row.arm)


def write_choice(out: Path, outcome: Outcome, identity: Mapping[str, Any] | None = None) -> None:
    """Write ``choice.json`` into ``out``; its presence says that the sweep is finished.

    It has the digests of the other results, which are there already.

    Args:
        identity: of the sweep that it is the choice of: with more to choose from it is none.
    """
    row = outcome.choice.row
    measures = ("n", "top1", "top5", "balanced_accuracy", "macro_f1")
    shown = ("split", "arm", *measures)
    write_json(
        out / CHOICE,
        {
            "chosen": to_record(row),
            "reason": outcome.choice.reason,
            "optimism": outcome.choice.optimism,
            "expected": outcome.choice.expected,
            "metric": outcome.choice.metric,
            "val": {name: getattr(row, name) for name in (*measures, "crossfit_top1")},
            "val_as_served": outcome.val_as_served,
            "test_top1": outcome.test.top1,
            "unseen": [
                {name: getattr(r, name) for name in shown} for r in outcome.rows if r.split != "val"
            ],
            "gains": outcome.gains,
            "gains_on_untouched": outcome.gains_on_untouched,
            "refit": outcome.refit,
            "test_cells": outcome.test_cells,
            "calibration": outcome.calibration,
            "latency": outcome.latency,
            "served_latency": outcome.served_latency,
            "int8": outcome.int8,
            "failures": outcome.failures,
            "budget": outcome.budgeted,
            "early_end": outcome.early_end,
            "cascade": outcome.cascade,
            "screen": outcome.screen,
            "files": result_digests(out),
            "identity": identity,
        },
    )


def read_outcome(
    out: Path, extra_test_sets: Iterable[str], *, int8: bool = False, openvino: bool = False
) -> Outcome | None:
    """Read the outcome from a sweep's folder.

    Args:
        extra_test_sets: names of the sets that the sweep is to be scored on beside the test split.
        int8: whether it is to have the net in eight bits.
        openvino: whether it is to have the net for OpenVINO.

    Returns:
        None where the sweep is not finished, a held-out set is still to be read, such a net is
        still to be made, or a file is damaged or of another version, which a warning tells.
    """
    try:
        outcome = unless_damaged(lambda: _read_outcome(out, {"test", *extra_test_sets}))
    except OtherVersionError:
        log.warning(
            "%s was written by another version of this: what its store holds of trunks and cells "
            "is taken as it is, and the results are written again", out / BOARD,
        )  # fmt: skip
        return None
    lacks_int8 = int8 and outcome is not None and outcome.int8 is None
    lacks_openvino = openvino and not (out / "model" / OPENVINO_FILE).is_file()
    return None if lacks_int8 or lacks_openvino else outcome


def _read_outcome(out: Path, held_out_sets: set[str]) -> Outcome | None:
    """Read the outcome; see :func:`read_outcome`.

    Raises:
        DamagedFileError: choice.json or the leaderboard is damaged, or the leaderboard is missing.
        OtherVersionError: another version wrote the leaderboard.
    """
    record = read_json(out / CHOICE)
    if record is None:
        return None
    rows = leaderboard.read(out / BOARD)
    if held_out_sets - {r.split for r in rows}:
        return None
    with damage_told(out / CHOICE):
        outcome = Outcome(
            rows=rows,
            choice=checked(
                Choice(
                    row=from_record(record["chosen"]),
                    reason=record["reason"],
                    optimism=record["optimism"],
                    expected=_expectation_from_json(record.get("expected")),
                    metric=record.get("metric", "top1"),
                )
            ),
            gains=_gains_from_json(record["gains"]),
            gains_on_untouched=_gains_from_json(record.get("gains_on_untouched", {})),
            refit=record["refit"],
            test_cells=record["test_cells"],
            val_as_served={
                arm: checked(Score(**s)) for arm, s in record.get("val_as_served", {}).items()
            },
            calibration=_calibration_from_json(record.get("calibration")),
            latency=_conditions(record.get("latency")),
            served_latency=_served_latency(record.get("served_latency")),
            int8=_int8(record.get("int8")),
            failures=tuple(checked(Failure(**f)) for f in record.get("failures", [])),
            budgeted=budgeted_from_json(record.get("budget")),
            early_end=record.get("early_end", ""),
            cascade=record.get("cascade", ""),
            screen=screen_from_json(record.get("screen")),
        )
        if outcome.choice.row not in rows:
            raise ValueError("its choice is no row of the leaderboard")
        _ = outcome.test
        return checked(outcome)


def _gains_from_json(value: Mapping[str, Any]) -> dict[str, PairedGain]:
    return {name: checked(PairedGain(**gain)) for name, gain in value.items()}


def _expectation_from_json(value: Mapping[str, Any] | None) -> Expectation | None:
    return None if value is None else checked(Expectation(**value))


def _calibration_from_json(value: Mapping[str, Any] | None) -> Calibration | None:
    if value is None:
        return None
    scores = tuple(checked(CalibrationScore(**score)) for score in value["scores"])
    return checked(Calibration(**{**value, "scores": scores}))


def _conditions(written: Mapping[str, Any] | None) -> Conditions | None:
    return None if written is None else checked(Conditions(**written))


def _served_latency(written: Mapping[str, Any] | None) -> ServedLatency | None:
    if written is None:
        return None
    return ServedLatency(
        conditions=checked(Conditions(**written["conditions"])),
        latency=checked(Latency(**written["latency"])),
    )


def _int8(written: Mapping[str, Any] | None) -> Int8Net | None:
    if written is None:
        return None
    own = {
        "test": checked(Score(**written["test"])),
        "conditions": checked(Conditions(**written["conditions"])),
        "latency": checked(Latency(**written["latency"])),
        "float_latency": checked(Latency(**written["float_latency"])),
    }
    return checked(Int8Net(**{**written, **own}))


def lost_results(out: Path) -> list[str]:
    """List the results of a finished sweep that are damaged or missing, by their names in ``out``.

    Those of a sweep that was finished before digests were written are taken as they are.
    """
    files = (read_json(out / CHOICE) or {}).get("files", {})
    return damaged_results(out, files) if isinstance(files, dict) else []


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model that is handed over: a trunk as one arm of one cell adapted it."""

    cell: Cell
    arm: str
    refit: bool
    """Whether it was trained again, on train + val."""
    refit_s: float = field(default=0.0, compare=False)
    """Seconds that training it again took."""


def finished_outcome(
    spec: SweepSpec, location: SweepLocation, record: SweepRecord, identity: Mapping[str, Any]
) -> Outcome | None:
    """Read the outcome of a finished sweep; None: something of it is to be made (again).

    Args:
        record: of the sweep, as the command before this one left it.
        identity: of the sweep that this command asks for.
    """
    if not _is_choice_of(location.out, record, identity):
        return None
    output = spec.output
    outcome = read_outcome(
        location.out, spec.extra_test_sets, int8=output.int8, openvino=output.openvino
    )
    if outcome is not None and outcome.failures and has_lines(location.store.journal):
        log.warning("%s failed before: tried again", counts_in_words(outcome.failures))
        return None
    if (
        outcome is not None
        and outcome.budgeted is not None
        and outcome.budgeted.is_incomplete
        and outcome.budgeted.allows_more(spec.budget)
        and children(location.store.trunks)
    ):
        log.warning("the budget is larger than before: what it left undone is gone on with")
        return None
    lost = lost_results(location.out) if outcome else []
    if not lost:
        return outcome
    files = f"{len(lost)} files of {location.out} are damaged or missing ({lost[0]}, ...)"
    if not has_lines(location.store.journal):
        log.warning("%s, and so is the store that they were made from", files)
        return outcome
    log.warning("%s: they are written again", files)
    return None


def _is_choice_of(out: Path, record: SweepRecord, identity: Mapping[str, Any]) -> bool:
    """Whether the choice in ``out`` was made among just what is asked for."""
    choice = unless_damaged(lambda: read_json(out / CHOICE))
    if not isinstance(choice, dict):
        return False
    made_of = choice.get("identity")
    if isinstance(made_of, dict):
        return not differences(made_of, identity)
    # Versions that did not say it could not extend a sweep.
    return not record.extensions and not differences(record.identity, identity)


def served_as_swept(plan: Plan, row: Row, store: Store) -> ServedModel:
    """Return the chosen row's own model, as the sweep trained and adapted it."""
    trunk = read_trunk_spec(store, row.trunk)
    cell = plan.cell(trunk, row.trunk_epochs, row.test_res, row.crop_pct)
    if cell.key != row.cell:  # the plan is over more than the one that the row is of
        recorded = recorded_spec(store, row.cell)
        cell = cell if recorded is None else replace(cell, spec=recorded)
    return ServedModel(cell=cell, arm=row.arm, refit=False)


@dataclass(frozen=True, kw_only=True)
class PairedGain:
    """Top-1 of a net minus that of one that it is compared with, image by image; as shares."""

    difference: float
    error: float
    """Standard error of the paired difference."""


def paired_gain(net: np.ndarray, other: np.ndarray) -> PairedGain:
    """Compare two nets by the images that each has right: (n,) bool."""
    difference, error = paired_difference(net, other)
    return PairedGain(difference=difference, error=error)
