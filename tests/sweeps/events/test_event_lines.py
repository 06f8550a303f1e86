"""Each event is a line of JSON that a program can follow."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sweeps.events.event_lines import EventLines
from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    EpochEnded,
    Event,
    TrialRetried,
    TrunkEnded,
)
from tests.sweeps.terminal.test_console import events  # noqa: F401 - a fixture


def test_every_event_is_a_line(tmp_path: Path, events: list[Event]) -> None:  # noqa: F811
    running = next(e.cell for e in events if isinstance(e, CellBegan))
    retried = TrialRetried(trunk=running.trunk, cell=running, error="Trace\n  Boom: lost\n")
    told = [*events, retried, TrialRetried(trunk=running.trunk, error="Boom")]
    path = tmp_path / "new" / "events.jsonl"
    watcher = EventLines(path, clock=lambda: 12.34567)
    for event in told:
        watcher.on(event)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(told) and {line["at"] for line in lines} == {12.346}
    assert lines[0]["event"] == "sweep_began"
    for line, event in zip(lines, told, strict=True):
        match event:
            case EpochEnded(trunk=trunk, report=report):
                assert (line["trunk"], line["epoch"]) == (trunk.key, report.epoch)
                assert line["val_top1"] == {str(r): s.top1 for r, s in report.val.items()}
            case TrunkEnded(trunk=trunk, status=status):
                assert (line["trunk"], line["status"]) == (trunk.key, status.value)
            case CellEnded(cell=cell, rows=rows):
                assert line["name"] == cell.label
                assert line["arms"] == {r.arm: {"top1": r.top1, "n": r.n} for r in rows}
    assert lines[-2]["cell"] == running.key and lines[-2]["error"] == "Boom: lost"
    assert lines[-1]["trunk"] == running.trunk.key


def test_a_file_that_cannot_be_written_is_one_warning(
    tmp_path: Path,
    events: list[Event],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    watcher = EventLines(tmp_path / "file" / "events.jsonl")
    with caplog.at_level(logging.WARNING):
        for event in events:
            watcher.on(event)
    assert len(caplog.records) == 1 and "events are not written to" in caplog.text
