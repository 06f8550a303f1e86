"""Show a running sweep: a live panel on a terminal, plain lines in a file or pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.events.event_types import (
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
from sweeps.events.progress import Progress
from sweeps.planning.cell import trunk_in_words
from sweeps.planning.search import settings_of, values_in_words
from sweeps.terminal.status import Status, left_in_words
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.evaluation.metrics import Score
from trainables.training.trunk import TrunkSpec, trained_epochs

# Seconds between two lines about the progress of a long preparation.
PROGRESS_EVERY_S = 5.0
ENDINGS = {
    "finished": "finished",
    "cut": "cut by ASHA",
    "diverged": "diverged",
    "failed": "failed",
}


class OutputClosedError(BrokenPipeError):
    """Nobody reads what is printed any longer, as after ``... | head``."""


class PlainConsole(Console):
    """A console that leaves it to the command what follows when nobody reads its output."""

    def on_broken_pipe(self) -> None:
        """Raise :class:`OutputClosedError`."""
        raise OutputClosedError


class Terminal:
    """A watcher that prints what happens. Use it as a context, which ends the live panel."""

    def __init__(self, console: Console | None = None):
        self.console = console or PlainConsole(highlight=False, soft_wrap=not _is_terminal(console))
        self.progress = Progress()
        self._live: Live | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, markup=False, emoji=False)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """Make a callback (done, total) that prints the progress of ``what`` now and then."""
        last_line_at = time.monotonic()

        def count(done: int, total: int) -> None:
            nonlocal last_line_at
            if time.monotonic() - last_line_at > PROGRESS_EVERY_S:
                last_line_at = time.monotonic()
                self.say(f"{what}: {done} of {total}")

        return count

    def on(self, event: Event) -> None:
        """Print what the event means, or let the panel show it."""
        self.progress.on(event)
        match event:
            case SweepBegan() if self.console.is_terminal and self._live is None:
                self._live = Live(
                    get_renderable=self._panel,
                    console=self.console,
                    refresh_per_second=2,
                    transient=True,
                )
                self._live.start()
            case TrunkBegan(trunk=trunk, after=after) if not self.console.is_terminal:
                begins = f"goes on after epoch {after}" if after else "begins"
                self.say(f"trunk {self._named(trunk)}: {begins}")
            case EpochEnded(trunk=trunk, report=report, should_continue=continues):
                if report.best_val and continues and not self.console.is_terminal:
                    self.say(
                        f"trunk {self._named(trunk)}: epoch {report.epoch}, "
                        f"{self._best_val(report.val)}, goes on; {self._left()}"
                    )
            case TrunkPaused(trunk=trunk, after=after, val=val) if not self.console.is_terminal:
                accuracy = f"{self._best_val(val)}, " if val else ""
                self.say(
                    f"trunk {self._named(trunk)}: epoch {after}, {accuracy}waits at its rung; "
                    f"{self._left()}"
                )
            case TrunkEnded(trunk=trunk, status=status, reports=reports):
                last = next((r.val for r in reversed(reports) if r.val), {})
                accuracy = f", {self._best_val(last)}" if last else ""
                self.say(
                    f"trunk {self._named(trunk)}: {ENDINGS[status]} after "
                    f"{trained_epochs(reports)} epochs{accuracy}; {self._left()}"
                )
                self._say_error(event.error)
            case CellsPlanned(is_last=True):
                count = len(self.progress.cells)
                self.say(f"cells: {count}, each adapts a trunk to a test resolution and crop")
            case CellEnded(cell=cell, rows=rows):
                subject = f"cell {cell.label}"
                if not rows:
                    self.say(f"{subject}: failed")
                    self._say_error(event.error)
                    return
                metric, words = self._metric
                scores = ", ".join(f"{r.arm} {100 * r.value(metric):.1f} %" for r in rows)
                self.say(f"{subject}: val {words} {scores} (n={rows[0].n}); {self._left()}")
            case TrialRetried(trunk=trunk, cell=cell, error=error, left=left):
                subject = f"cell {cell.label}" if cell else f"trunk {self._named(trunk)}"
                why = last_line(error).partition(". ")[0].rstrip(".")
                where = f", on another node than {left}, where it failed again" if left else ""
                self.say(f"{subject}: tried again{where}, as a trial failed{why and f': {why}'}")

    def _say_error(self, trace: str) -> None:
        """Print the last line of a traceback, the whole of which is in the store."""
        if last := last_line(trace):
            self.say(f"  {last} (the whole trace is error.txt in its store folder)")

    def _left(self) -> str:
        return left_in_words(*(self.progress.left() or (None, None)))

    def status(self) -> Status | None:
        """Tell how the sweep stands; None: it has not begun."""
        progress = self.progress
        plan = progress.plan
        if plan is None:
            return None
        if not progress.are_all_planned:
            phase, total, done = "trunks", progress.planned_trunks, len(progress.ended)
            waiting = progress.waiting_trunks
        else:
            phase, total, done = "cells", len(progress.cells), len(progress.cells_done)
            waiting = total - done - len(progress.cells_running)
        left, most = progress.left() or (None, None)
        return Status(
            written=time.time(),
            phase=phase,
            done=done,
            total=total,
            waiting=waiting,
            at_rungs=len(progress.paused),
            elapsed_s=progress.elapsed,
            left_s=left,
            most_left_s=most,
            running=(
                *(self._doing(key, epoch) for key, epoch in progress.epochs.items()),
                *(progress.cells[key].label for key in sorted(progress.cells_running)),
            ),
            best=self._best(),
        )

    def _doing(self, key: str, epoch: int) -> str:
        trunk = self.progress.trunks[key]
        epochs = trunk.recipe.epochs
        doing = f"epoch {epoch + 1} of {epochs}" if epochs else "scored as it is"
        return f"{self._named(trunk)}: {doing}"

    def _panel(self) -> RenderableType:
        status = self.status()
        if status is None:
            return Text("")
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"{status.phase} {status.done}/{status.total}", style="bold"),
            ProgressBar(total=max(1, status.total), completed=status.done, width=30),
            Text(status.counts_in_words),
        )
        running = (Text(f"  {name}") for name in status.running)
        return Group(head, *running, Text(f"  best so far: {status.best}", style="green"))

    def _best(self) -> str:
        row, (metric, words) = self.progress.best_row, self._metric
        if row is not None:
            value = f"{100 * row.value(metric):.1f} % (n={row.n})"
            return f"{row.label}, {row.arm}: val {words} {value}"
        if self.progress.best_trunk is not None:
            score, trunk, res = self.progress.best_trunk
            return (
                f"{trunk.variant} {trunk.train_res} -> {res} px: val {words} "
                f"{100 * score.value(metric):.1f} % (n={score.n}), before any fix"
            )
        return "nothing scored yet"

    def _named(self, trunk: TrunkSpec) -> str:
        """Name a trunk by its point, its learning rate and what else of the recipe is varied."""
        words, plan = trunk_in_words(trunk), self.progress.plan
        names = plan.search.of_recipe if plan and trunk.recipe.epochs else ()
        return ", ".join([words, *([values_in_words(settings_of(trunk), names)] if names else [])])

    @property
    def _metric(self) -> tuple[Metric, str]:
        """What val decides by, and its name in words."""
        return self.progress.metric, IN_WORDS[self.progress.metric]

    def _best_val(self, val: Mapping[int, Score]) -> str:
        metric, words = self._metric
        res, score = max(val.items(), key=lambda item: item[1].value(metric))
        return f"val {words} {100 * score.value(metric):.1f} % at {res} px (n={score.n})"


def _is_terminal(console: Console | None) -> bool:
    return (console or Console()).is_terminal
