"""A watcher that appends each event to a file, a line of JSON: for programs that follow a sweep."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrialRetried,
    TrunkBegan,
    TrunkEnded,
    TrunkPaused,
)
from sweeps.events.failures import last_line
from sweeps.planning.cell import trunk_in_words
from trainables.training.trunk import TrunkSpec, trained_epochs

log = logging.getLogger("fixres")


class EventLines:
    """A watcher that appends events to a file of this machine.

    Each line has "at" (Unix time, s) and "event", and what the event is about; trunks and cells by
    their key and in words. After "sweep_began" of a command that continues, what the store holds
    comes again. A file that cannot be written costs a warning, not the sweep.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time):
        self._path, self._clock = path, clock
        self._is_lost = False

    def on(self, event: Event) -> None:
        """Append the event."""
        line = {"at": round(self._clock(), 3), **_told(event)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            if not self._is_lost:
                log.warning("events are not written to %s (%s)", self._path, error)
            self._is_lost = True


def _told(event: Event) -> dict[str, Any]:
    match event:
        case SweepBegan(plan=plan):
            return {"event": "sweep_began", "trunks": plan.trunks, "cells": plan.cells}
        case TrunkBegan(trunk=trunk, after=after):
            return {"event": "trunk_began", **_of(trunk), "after": after}
        case EpochEnded(trunk=trunk, report=report):
            val = {str(res): score.top1 for res, score in report.val.items()}
            told = {"epoch": report.epoch, "loss": report.loss, "lr": report.lr, "val_top1": val}
            return {"event": "epoch_ended", **_of(trunk), **told, "seconds": report.seconds}
        case TrunkPaused(trunk=trunk, after=after):
            return {"event": "trunk_paused", **_of(trunk), "after": after}
        case TrunkEnded(trunk=trunk, status=status, reports=reports, error=error):
            how = {"status": status.value, "epochs": trained_epochs(reports)}
            return {"event": "trunk_ended", **_of(trunk), **how, "error": last_line(error)}
        case CellsPlanned(cells=cells, is_last=is_last):
            return {"event": "cells_planned", "cells": len(cells), "is_last": is_last}
        case CellBegan(cell=cell):
            return {"event": "cell_began", "cell": cell.key, "name": cell.label}
        case CellEnded(cell=cell, rows=rows, error=error):
            arms = {row.arm: {"top1": row.top1, "n": row.n} for row in rows}
            ended = {"arms": arms, "error": last_line(error)}
            return {"event": "cell_ended", "cell": cell.key, "name": cell.label, **ended}
        case TrialRetried(trunk=trunk, cell=None, error=error):
            return {"event": "trial_retried", **_of(trunk), "error": last_line(error)}
        case TrialRetried(cell=cell, error=error):
            assert cell is not None, "the case before has the others"
            named = {"cell": cell.key, "name": cell.label}
            return {"event": "trial_retried", **named, "error": last_line(error)}


def _of(trunk: TrunkSpec) -> dict[str, str]:
    return {"trunk": trunk.key, "name": trunk_in_words(trunk)}
