"""What a finished sweep says, and the files that say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweeps.planning.cell import Cell
from sweeps.planning.plan import Plan
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row, from_record, to_record
from trainables.evaluation.confidence import paired_difference
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_json, write_json
from trainables.training.trunk import read_trunk_spec


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All rows, the choice, and what tuning gained on sets that nothing was chosen on."""

    rows: list[Row]
    choice: Choice
    gains: Mapping[str, PairedGain]  # by set; none where the chosen arm is untuned
    refit: bool  # the net handed over was trained again, on train + val
    test_cells: int  # of this sweep that the test split was looked at for, so far

    @property
    def test(self) -> Row:
        """The chosen row's, on the test split."""
        return next(r for r in self.rows if r.split == "test" and r.arm == self.choice.row.arm)


def write_choice(out: Path, outcome: Outcome) -> None:
    """``choice.json``: its being there says that the sweep is finished."""
    row = outcome.choice.row
    shown = ("split", "arm", "n", "top1", "top5")
    write_json(
        out / "choice.json",
        {
            "chosen": to_record(row),
            "reason": outcome.choice.reason,
            "optimism": outcome.choice.optimism,
            "val": {"n": row.n, "top1": row.top1, "top5": row.top5},
            "test_top1": outcome.test.top1,
            "unseen": [
                {name: getattr(r, name) for name in shown} for r in outcome.rows if r.split != "val"
            ],
            "gains": outcome.gains,
            "refit": outcome.refit,
            "test_cells": outcome.test_cells,
        },
    )


def read_outcome(out: Path, further: Iterable[str]) -> Outcome | None:
    """What the folder says; None where the sweep is not finished, or a set is still to be read."""
    found = read_json(out / "choice.json")
    if found is None:
        return None
    rows = leaderboard.read(out / "leaderboard.parquet")
    if {"test", *further} - {r.split for r in rows}:
        return None
    choice = Choice(
        row=from_record(found["chosen"]), reason=found["reason"], optimism=found["optimism"]
    )
    gains = {name: PairedGain(**gain) for name, gain in found["gains"].items()}
    return Outcome(
        rows=rows,
        choice=choice,
        gains=gains,
        refit=found["refit"],
        test_cells=found["test_cells"],
    )


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A trunk as one arm of one cell adapted it: the net that is handed over."""

    cell: Cell
    arm: str
    refit: bool  # on train + val


def served_as_swept(plan: Plan, row: Row, store: Store) -> ServedModel:
    """Serve the chosen row's own net."""
    trunk = read_trunk_spec(store, row.trunk)
    cell = plan.cell(trunk, row.trunk_epochs, row.test_res)
    return ServedModel(cell=cell, arm=row.arm, refit=False)


@dataclass(frozen=True, kw_only=True)
class PairedGain:
    """Top-1 of the tuned net less that of the untuned, image by image: shares."""

    difference: float
    error: float  # standard error of the paired difference


def paired_gain(tuned: np.ndarray, untuned: np.ndarray) -> PairedGain:
    """Of which images each has right: (n,) bool."""
    difference, error = paired_difference(tuned, untuned)
    return PairedGain(difference=difference, error=error)
