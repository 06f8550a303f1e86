"""What the terminal shows: plain lines on a file, a panel on a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    Event,
    SweepBegan,
    TrialRetried,
    TrunkBegan,
    TrunkEnded,
    TrunkPaused,
)
from sweeps.terminal.console import Terminal
from tests.factories import HYPER, a_row, file_console, output_of, plan_of, spec_with
from tests.fake_training import SMALL_SPEC, diverging, phase
from trainables.training.trunk import TrunkStatus


def tty_console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """A whole sweep, with a trunk and a cell that came to nothing."""
    plan = plan_of(SMALL_SPEC)
    director, _, _, events = phase(plan, tmp_path_factory.mktemp("store"), diverging)
    lost = next(e.trunk for e in events if isinstance(e, TrunkBegan))
    failed = TrunkEnded(
        trunk=lost, status=TrunkStatus.FAILED, reports=(), error="Trace\n  Boom: [b] broken\n"
    )
    survivors = director.survivors()
    cells = [plan.cell(t, t.recipe.epochs, r, 1.0) for t in survivors for r in (64, 96)]
    told: list[Event] = [SweepBegan(plan=plan), *events, failed, CellsPlanned(cells=tuple(cells))]
    for i, cell in enumerate(cells):
        place: dict[str, Any] = {"variant": cell.variant, "train_res": cell.trunk.train_res}
        rows = (a_row(20 + i, arm="none", **place), a_row(30 + i, **place))
        told += [CellBegan(cell=cell)]
        told += [CellEnded(cell=cell, rows=rows if i else ())]
    return told


def lines_of(events: list[Event]) -> list[str]:
    console = file_console()
    with Terminal(console) as terminal:
        for event in events:
            terminal.on(event)
    return output_of(console).splitlines()


def test_on_a_file_plain_lines_of_one_event_each(events: list[Event]) -> None:
    lines = lines_of(events)
    assert lines and not any("\x1b" in line for line in lines)
    assert all(re.match(r"(trunk|cell|cells:|  \S)", line) for line in lines)
    ends = [e for e in events if isinstance(e, TrunkEnded)]
    for status, words in (
        ("finished", "finished"),
        ("cut", "cut by ASHA"),
        ("diverged", "diverged"),
    ):
        count = sum(e.status == status for e in ends)
        assert count and sum(f": {words} after" in line for line in lines) == count
    assert sum(line.startswith("cell ") for line in lines) == sum(
        isinstance(e, CellEnded) for e in events
    )
    assert lines[-1].endswith("nothing left")


def test_a_trunk_that_waits_and_goes_on_is_told(events: list[Event]) -> None:
    lines = lines_of(events)
    waits = [line for line in lines if "waits at its rung" in line]
    assert len(waits) == sum(isinstance(e, TrunkPaused) for e in events) > 0
    assert all(re.search(r": epoch \d, val top-1 .* \(n=50\), waits", line) for line in waits)
    gone_on = [line for line in lines if re.search(r": goes on after epoch \d$", line)]
    assert len(gone_on) == sum(isinstance(e, TrunkBegan) and e.after > 0 for e in events) > 0
    known = TrunkPaused(trunk=next(e.trunk for e in events if isinstance(e, TrunkPaused)), after=2)
    (line,) = lines_of([known])
    assert line.endswith(": epoch 2, waits at its rung; time left not yet known")


def test_every_accuracy_has_its_split_and_sample_size(events: list[Event]) -> None:
    shares = [line for line in lines_of(events) if "%" in line]
    assert len(shares) > 20
    for line in shares:
        assert "val top-1" in line and "(n=50)" in line, line


def test_an_error_is_told_by_its_last_line_as_it_stands(events: list[Event]) -> None:
    (line,) = [line for line in lines_of(events) if "Boom" in line]
    assert "Boom: [b] broken" in line and "error.txt" in line


def test_a_trial_that_is_tried_again_is_told_in_a_line(events: list[Event]) -> None:
    ended = next(e for e in events if isinstance(e, CellEnded))
    trace = "Failure # 1\nThe actor is dead because it died. Worker exit type: X Y: Z. More.\n"
    begun, cell = (
        TrialRetried(trunk=ended.cell.trunk, cell=c, error=trace) for c in (None, ended.cell)
    )
    of_trunk, of_cell = lines_of([begun, cell])
    assert of_trunk.startswith("trunk b0 at 64 px, lr ") and of_cell.startswith("cell b0 64 -> ")
    for line in (of_trunk, of_cell):
        assert line.endswith(": tried again, as a trial failed: The actor is dead because it died")


def test_a_node_that_work_is_kept_from_is_named(events: list[Event]) -> None:
    ended = next(e for e in events if isinstance(e, CellEnded))
    (line,) = lines_of(
        [TrialRetried(trunk=ended.cell.trunk, cell=ended.cell, error="OSError: x", left="10.0.0.7")]
    )
    assert ": tried again, on another node than 10.0.0.7, where it failed again, as" in line


def test_the_error_of_a_trial_names_options(events: list[Event]) -> None:
    ended = next(e for e in events if isinstance(e, CellEnded))
    trace = "Trace\ntrainables.errors.UserError: `data` /d holds other images.\n"
    failed = CellEnded(cell=ended.cell, rows=(), error=trace)
    retried = TrialRetried(trunk=ended.cell.trunk, cell=ended.cell, error=trace)
    _, of_failed, of_retried = lines_of([failed, retried])
    for line in (of_failed, of_retried):
        assert "UserError: --data /d holds other images" in line


def test_brackets_and_colons_in_a_line_are_no_markup() -> None:
    console = file_console()
    Terminal(console).say("folder [red]/data[/red] :smile:")
    assert output_of(console) == "folder [red]/data[/red] :smile:\n"


def test_long_lines_are_not_broken_on_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    terminal = Terminal()
    terminal.say("word " * 60)
    assert terminal.console.file.getvalue().count("\n") == 1  # type: ignore[attr-defined]


def has_panel(terminal: Terminal) -> bool:
    return terminal._live is not None


@pytest.mark.parametrize("width", [40, 100])
def test_on_a_terminal_a_panel_is_drawn_at_every_point(events: list[Event], width: int) -> None:
    console = tty_console(width)
    with Terminal(console) as terminal:
        for event in events:
            terminal.on(event)
            paper = file_console(width)
            paper.print(terminal._panel())
            text = " ".join(output_of(paper).split())
            assert re.search(r"(trunks|cells) \d+/\d+", text) and "best so far:" in text
            assert ("%" in text) is bool(re.search(r"val top-1 [\d.]+ % \(n=50\)", text))
        assert has_panel(terminal)
    assert not has_panel(terminal)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output_of(console))
    assert "cut by ASHA" in " ".join(shown.split())


def test_the_panel_ends_with_the_context_even_on_an_error(events: list[Event]) -> None:
    terminal = Terminal(tty_console())

    def fail() -> None:
        with terminal:
            terminal.on(events[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not has_panel(terminal)


def test_counting_speaks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    console = file_console()
    count = Terminal(console).counting("decoding images")
    for done in range(1, 101):
        now += 0.3
        count(done, 100)
    said = output_of(console).splitlines()
    assert said[0] == "decoding images: 17 of 100" and len(said) == 5


def test_a_trunk_is_named_by_what_it_is() -> None:
    plan = plan_of(spec_with(variants=("b0", "b1"), train_res=(100,), test_res=(100, 200)))
    trunk = plan.trunk(plan.points[1], HYPER)
    console = file_console()
    Terminal(console).on(TrunkBegan(trunk=trunk))
    assert output_of(console) == "trunk b1 at 100 px, lr 0.001: begins\n"
