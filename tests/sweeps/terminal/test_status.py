"""How a sweep stands is told to who asks from elsewhere, whether it runs or not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sweeps.events.event_types import CellBegan, CellEnded, Event, TrunkEnded
from sweeps.output.folder import locked
from sweeps.output.location import CHOICE, STATUS
from sweeps.terminal import status
from sweeps.terminal.console import Terminal
from sweeps.terminal.status import Status, StatusFile, show_status
from tests.factories import file_console
from tests.sweeps.terminal.test_console import events  # noqa: F401 - a fixture
from tests.waiting import wait_until
from trainables.errors import UserError


@pytest.fixture(autouse=True)
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "WRITE_EVERY_S", 0.0)


def shown(out: Path) -> list[str]:
    said: list[str] = []
    show_status(out, said.append)
    return said


def follow(out: Path, told: list[Event]) -> None:
    """Run through events as a sweep does."""
    terminal = Terminal(file_console())
    watcher = StatusFile(out / STATUS, terminal.status)
    for event in told:
        terminal.on(event)
        watcher.on(event)


def test_a_sweep_that_runs_says_what_runs_and_what_waits(
    tmp_path: Path,
    events: list[Event],  # noqa: F811
) -> None:
    first_end = next(i for i, e in enumerate(events) if isinstance(e, TrunkEnded))
    follow(tmp_path, events[: first_end + 1])
    ended = events[first_end]
    assert isinstance(ended, TrunkEnded)
    with locked(tmp_path):
        head, counts, *lines = shown(tmp_path)
    assert head.startswith(f"{tmp_path} runs; this is as of ") and head.endswith(" ago")
    assert counts.startswith("trunks 1/") and " wait" in counts
    assert lines[-1].startswith("  best so far: ") and "%" in lines[-1]


def test_cells_that_run_are_named_and_those_of_a_stopped_sweep_are_not(
    tmp_path: Path,
    events: list[Event],  # noqa: F811
) -> None:
    began = [i for i, e in enumerate(events) if isinstance(e, CellBegan)]
    follow(tmp_path, events[: began[1] + 1])
    running = events[began[1]]
    assert isinstance(running, CellBegan)
    with locked(tmp_path):
        assert f"  {running.cell.label}" in shown(tmp_path)
    head, counts, *lines = shown(tmp_path)
    assert "is stopped; the same command continues; this is" in head
    assert counts.startswith("cells 1/") and len(lines) == 1


def test_a_finished_sweep_says_where_its_choice_is_shown(
    tmp_path: Path,
    events: list[Event],  # noqa: F811
) -> None:
    follow(tmp_path, events)
    (tmp_path / CHOICE).write_text("{}")
    said = shown(tmp_path)
    assert " is finished; " in said[0]
    assert said[-1] == f"select_best.py --sweep {tmp_path} shows what was chosen"
    ends = [e for e in events if isinstance(e, CellEnded)]
    assert said[1].startswith(f"cells {len(ends)}/{len(ends)}, 0 wait")


def test_what_comes_too_soon_is_written_a_little_later(
    tmp_path: Path,
    events: list[Event],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "WRITE_EVERY_S", 0.3)
    written: list[Status] = []
    monkeypatch.setattr(status, "write_json", lambda _, value: written.append(value))
    terminal = Terminal(file_console())
    watcher = StatusFile(tmp_path / STATUS, terminal.status)
    for event in events:
        terminal.on(event)
        watcher.on(event)
    assert 1 <= len(written) < len(events) / 2
    wait_until(lambda: written[-1].done == written[-1].total > 0)


def test_before_the_plan_and_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no sweep that has begun: name its --out"):
        shown(tmp_path / "nowhere")
    with locked(tmp_path):
        assert shown(tmp_path) == [f"{tmp_path} prepares: images, weights and plan come first"]


def test_a_file_of_another_form_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / STATUS).write_text(json.dumps({"written": time.time()}))
    with pytest.raises(Exception, match=r"status\.json"):
        shown(tmp_path)
